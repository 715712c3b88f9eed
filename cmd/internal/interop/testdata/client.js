// Login and chat through @xmpp/client. The last line is "ok".
// Nothing is set but addresses and passwords; the CA is what NODE_EXTRA_CA_CERTS names.
// usage: client.js SERVICE ROMEO PASSWORD JULIET PASSWORD
const { client, xml } = await import("@xmpp/client");
const [service, rjid, rpw, jjid, jpw] = process.argv.slice(2);

function connect(address, password) {
  const [username, domain] = address.split("@");
  const c = client({ service, domain, username, password });
  c.inbox = [];
  c.on("stanza", (s) => { c.inbox.push(s); c.wake?.(); });
  c.on("error", (e) => { console.error(username, e); process.exit(1); });
  c.reconnect.stop();
  return c;
}

async function expect(c, what) {
  for (const end = Date.now() + 15000; Date.now() < end;) {
    const i = c.inbox.findIndex(what);
    if (i >= 0) return c.inbox.splice(i, 1)[0];
    await new Promise((done) => { c.wake = done; setTimeout(done, 200); });
  }
  console.error("nothing that matches came; inbox:", c.inbox.map(String));
  process.exit(1);
}

const romeo = connect(rjid, rpw), juliet = connect(jjid, jpw);
const rfull = String(await romeo.start()), jfull = String(await juliet.start());
console.log("bound", rfull, jfull);
await romeo.send(xml("presence"));
await juliet.send(xml("presence"));
await expect(juliet, (s) => s.is("presence") && s.attrs.from === jfull);
await romeo.send(xml("message", { type: "chat", to: jjid }, xml("body", {}, "from <js> & back")));
const m = await expect(juliet, (s) => s.is("message"));
if (m.getChildText("body") !== "from <js> & back" || m.attrs.from !== rfull) throw new Error(String(m));
await juliet.send(xml("message", { type: "chat", to: m.attrs.from }, xml("body", {}, "yes")));
await expect(romeo, (s) => s.is("message") && s.getChildText("body") === "yes");
const pong = await romeo.iqCaller.request(xml("iq", { type: "get", to: "localhost" }, xml("ping", "urn:xmpp:ping")));
if (pong.attrs.type !== "result") throw new Error(String(pong));
await romeo.stop();
await juliet.stop();
console.log("ok");
process.exit(0);
