// Login with SASL2, Bind 2 and FAST through @xmpp/client: by the password, and then twice by the token. The last
// line is "ok". The CA is what NODE_EXTRA_CA_CERTS names.
// usage: login.js SERVICE ROMEO PASSWORD JULIET PASSWORD
const { client, xml } = await import("@xmpp/client");
const [service, rjid, rpw] = process.argv.slice(2);
const [username, domain] = rjid.split("@");
const userAgent = xml("user-agent", { id: "11111111-4d72-4749-b3d3-740edbf87770" }, xml("software", {}, "login.js"),
  xml("device", {}, "a test"));
let token, issued = 0;

async function login(password) {
  const by = [];
  const c = client({ service, domain, username, password, userAgent, resource: "js" });
  c.on("send", (e) => { if (e.is("authenticate")) by.push(e.attrs.mechanism); });
  c.fast.fetchToken = async () => token;
  c.fast.saveToken = async (t) => { token = t; issued++; };
  c.fast.deleteToken = async () => { token = undefined; };
  c.on("error", (e) => { console.error(e); process.exit(1); });
  c.reconnect.stop();
  let success;
  c.on("nonza", (e) => { if (e.is("success")) success = String(e); });
  const full = String(await c.start());
  console.log("bound", full, "by", String(by));
  const pong = await c.iqCaller.request(xml("iq", { type: "get", to: domain }, xml("ping", "urn:xmpp:ping")));
  if (pong.attrs.type !== "result") throw new Error(String(pong));
  if (success && !success.includes("<bound ")) throw new Error(success);
  await c.stop();
  return { full, by };
}

const first = await login(rpw);
if (!token || issued !== 1) throw new Error("no token");
for (let i = 0; i < 2; i++) {
  const next = await login("wrong");
  if (next.full !== first.full) throw new Error(`${next.full} is not ${first.full}`);
  if (String(next.by) !== "HT-SHA-256-NONE") throw new Error(String(next.by));
}
console.log("ok");
process.exit(0);
