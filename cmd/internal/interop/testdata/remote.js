// A client that does what it is told, through @xmpp/client: with SASL2, Bind 2, FAST, and its session resumed
// within the login (XEP-0198 section 9.2). See remote_test.go for what it is told and says.
// The CA is what NODE_EXTRA_CA_CERTS names.
// usage: remote.js SERVICE ROMEO PASSWORD JULIET PASSWORD
const { client, xml } = await import("@xmpp/client");
const { createInterface } = await import("node:readline");
const [service, , , jjid, jpw] = process.argv.slice(2);
const [username, domain] = jjid.split("@");
const MAM = "urn:xmpp:mam:2", RSM = "http://jabber.org/protocol/rsm", CARBONS = "urn:xmpp:carbons:2";

const print = (...words) => console.log(words.join(" "));

function fail(...what) {
  console.error(...what.map((w) => (w instanceof Error ? w.stack : String(w))));
  process.exit(1);
}

const c = client({ service, domain, username, password: jpw, resource: "js",
  userAgent: xml("user-agent", { id: "33333333-4d72-4749-b3d3-740edbf87770" }, xml("software", {}, "remote.js")) });
c.timeout = 60000; // two seconds by default, and the machine may be busy
c.reconnect.delay = 100;
let token, logins = 0, pages = [];
c.fast.fetchToken = async () => token;
c.fast.saveToken = async (t) => { token = t; };
c.fast.deleteToken = async () => { token = undefined; };
// The library leaves a promise alone when the stream ends with an error, as that of a server that stops.
process.on("unhandledRejection", (e) => { if (e?.name !== "StreamError") fail(e); });
c.on("error", () => {}); // a connection is lost, or can't be made: it tries again

// Stream management does not count an iq that iqCaller takes as the answer to one of its own (0.14). So those that
// this script sends are its own affair.
const answers = new Map();
let requests = 0;
function ask(to, payload) {
  const id = `ask${requests++}`;
  const answer = new Promise((resolve, reject) => { answers.set(id, { resolve, reject }); });
  answer.catch(() => {}); // also if nothing waits for it yet
  c.send(xml("iq", { type: payload.is("ping") ? "get" : "set", id, to }, payload)).catch(answers.get(id).reject);
  return answer;
}
c.on("stanza", (s) => {
  if (s.is("iq") && answers.has(s.attrs.id)) answers.get(s.attrs.id).resolve(s);
});

// A login after the first one is one element each way: the token's proof, and the answer to it.
let asked, sent = [];
c.on("open", () => { sent = []; });
c.on("send", (e) => {
  if (e.is("authenticate")) asked = e;
  if (!c.isStanza(e)) sent.push(e.name);
});
c.on("nonza", (e) => {
  if (!e.is("success")) return;
  if (logins++ === 0) return;
  if (asked.attrs.mechanism !== "HT-SHA-256-NONE") fail("it logged in by", asked.attrs.mechanism);
  if (asked.getChild("resume", "urn:xmpp:sm:3") && String(sent) !== "authenticate") fail("it sent", sent);
});

if (process.env.CANTO_INTEROP_DEBUG) {
  c.on("status", (s) => console.error("status", s));
  c.on("element", (e) => console.error("got", String(e)));
  c.on("send", (e) => console.error("sent", String(e)));
}

const sm = c.streamManagement;
sm.requestAckInterval = 2000;
let up = false, lost = [], waiting = [], first = true;
sm.on("ack", (s) => { if (s.is("message")) print("acked", s.getChildText("body")); });
function send(s) {
  // What the library can't write it does not keep.
  if (up) c.send(s).catch(() => lost.push(s));
  else waiting.push(s);
}
function flush() {
  up = true;
  const all = [...lost, ...waiting];
  lost = [];
  waiting = [];
  all.forEach(send);
}
sm.on("resumed", () => { print("resumed"); flush(); });
c.on("disconnect", () => {
  if (up) print("down");
  up = false;
});
c.on("online", async (full) => {
  try {
    await ask(undefined, xml("enable", CARBONS));
    await c.send(xml("presence"));
    await ask(domain, xml("ping", "urn:xmpp:ping"));
  } catch (e) {
    if (first) fail(e);
    return; // the connection is lost again
  }
  if (first) while (!token) await new Promise((done) => { setTimeout(done, 10); });
  first = false;
  print("bound", full);
  flush();
});

const idOf = (m) => m.getChildren("stanza-id", "urn:xmpp:sid:0").find((s) => s.attrs.by === jjid)?.attrs.id ?? "-";
c.on("stanza", (s) => {
  if (s.is("presence") && !s.attrs.from.startsWith(jjid)) print("shown", s.getChildText("show") ?? "-");
  if (!s.is("message")) return;
  const result = s.getChild("result", MAM);
  if (result) {
    const m = result.getChild("forwarded").getChild("message");
    if (m.getChildText("body")) pages.push(["missed", result.attrs.id, m.getChildText("body")]);
    return;
  }
  const copy = s.getChild("sent", CARBONS) ?? s.getChild("received", CARBONS);
  const m = copy ? copy.getChild("forwarded").getChild("message") : s;
  if (m.getChildText("body")) print("heard", copy?.name ?? "direct", idOf(m), m.getChildText("body"));
});

async function archive(after) {
  for (;;) {
    pages = [];
    const answer = await ask(undefined, xml("query", { xmlns: MAM },
      xml("set", RSM, xml("max", {}, "100"), after ? xml("after", {}, after) : null)));
    if (answer.attrs.type === "error") {
      if (!answer.getChild("error").getChild("item-not-found")) fail(answer);
      return print("unknown");
    }
    pages.forEach((p) => print(...p));
    const fin = answer.getChild("fin", MAM);
    if (fin.attrs.complete === "true") return print("read");
    after = fin.getChild("set", RSM).getChildText("last");
  }
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const [what, to, ...rest] = line.split(" ");
  const body = rest.join(" ");
  switch (what) {
    case "say":
      return send(xml("message", { type: "chat", to, id: body }, xml("body", {}, body)));
    case "archive":
      return archive(to).catch(() => {}); // the connection is lost again, and so it is bound again
    case "inactive":
      return c.send(xml("inactive", "urn:xmpp:csi:0"));
    case "end":
      c.reconnect.stop();
      await c.stop();
      print("ok");
      process.exit(0);
  }
});
await c.start().catch(fail);
