// The archive by pages, carbons and what waited through @xmpp/client. The last line is "ok".
// The CA is what NODE_EXTRA_CA_CERTS names. The stages are those of archive_slix.py.
// usage: archive.js SERVICE ROMEO PASSWORD JULIET PASSWORD archive|away|back [NAME...]
const { client, xml } = await import("@xmpp/client");
const [service, rjid, rpw, jjid, jpw, stage, ...names] = process.argv.slice(2);
const MAM = "urn:xmpp:mam:2", RSM = "http://jabber.org/protocol/rsm", CARBONS = "urn:xmpp:carbons:2";

setTimeout(() => { console.error("no end"); process.exit(1); }, 115000).unref();

function connect(address, password) {
  const [username, domain] = address.split("@");
  const c = client({ service, domain, username, password });
  c.timeout = 60000; // two seconds by default, and the machine may be busy
  c.bare = address;
  c.heard = [];
  c.results = [];
  c.on("stanza", (s) => {
    if (!s.is("message")) return;
    const result = s.getChild("result", MAM);
    if (result) {
      c.results.push({
        id: result.attrs.id, query: result.attrs.queryid,
        body: result.getChild("forwarded").getChild("message").getChildText("body"),
      });
    } else {
      const copy = s.getChild("sent", CARBONS) ?? s.getChild("received", CARBONS);
      if (copy && s.attrs.from !== address) fail("a carbon came from", s.attrs.from);
      const m = copy ? copy.getChild("forwarded").getChild("message") : s;
      if (m.getChildText("body")) c.heard.push({ how: copy?.name ?? "direct", body: m.getChildText("body"), stanza: m });
    }
    c.wake?.();
  });
  c.on("error", (e) => fail(username, e));
  c.reconnect.stop();
  return c;
}

function fail(...what) {
  console.error(...what.map((w) => (w instanceof Error ? w.stack : String(w))));
  process.exit(1);
}

function same(got, want) {
  if (JSON.stringify(got) !== JSON.stringify(want)) fail(new Error(`\n got ${JSON.stringify(got)}\nwant ${JSON.stringify(want)}`));
}

async function hear(c, how, body) {
  for (const end = Date.now() + 60000; c.heard.length === 0;) {
    if (Date.now() > end) fail(`${c.jid} did not hear ${body}`);
    await new Promise((done) => { c.wake = done; setTimeout(done, 200); });
  }
  const m = c.heard.shift();
  same([m.how, m.body], [how, body]);
  return m.stanza;
}

const ping = (c) => c.iqCaller.request(xml("iq", { type: "get", to: "localhost" }, xml("ping", "urn:xmpp:ping")));
const say = (c, to, id, body) => c.send(xml("message", { type: "chat", to: String(to), id }, xml("body", {}, body)));

let queries = 0;
async function page(c, ...set) {
  c.results = [];
  const queryid = `q${queries++}`;
  const answer = await c.iqCaller.request(xml("iq", { type: "set" },
    xml("query", { xmlns: MAM, queryid }, xml("set", RSM, ...set))));
  if (c.results.some((r) => r.query !== queryid)) fail("a result of another query");
  const fin = answer.getChild("fin", MAM), rsm = fin.getChild("set", RSM);
  if (c.results.length) {
    same([rsm.getChildText("first"), rsm.getChildText("last")], [c.results[0].id, c.results.at(-1).id]);
  }
  return { results: c.results, complete: fin.attrs.complete === "true", rsm };
}

async function pages(c, max, backwards) {
  let all = [], from = backwards ? xml("before") : null;
  for (;;) {
    const { results, complete, rsm } = await page(c, xml("max", {}, String(max)), from);
    if (results.length > max || (!complete && results.length === 0)) fail(`a page of ${results.length}`);
    all = backwards ? [...results, ...all] : [...all, ...results];
    if (complete) return all.map((r) => r.body);
    from = backwards ? xml("before", {}, rsm.getChildText("first")) : xml("after", {}, rsm.getChildText("last"));
  }
}

// With Bind 2 what waits is for the archive, and is not sent (XEP-0386 section 4). Prosody 0.12 has none.
const sent = process.env.CANTO_INTEROP_PEER === "prosody";

const lines = (name) => [0, 1, 2].map((i) => `${name} 0${i}`);

async function online(c) {
  await c.start();
  await c.send(xml("presence"));
  await ping(c);
  return c;
}

function done() {
  console.log("ok");
  process.exit(0);
}

if (stage === "away") {
  const romeo = await online(connect(rjid, rpw));
  for (const body of lines(names[0])) await say(romeo, jjid, body, body);
  const last = async () => (await page(romeo, xml("max", {}, "3"), xml("before"))).results.map((r) => r.body);
  while (String(await last()) !== String(lines(names[0]))) await ping(romeo);
  await romeo.stop();
  done();
}
if (stage === "back") {
  const juliet = await online(connect(jjid, jpw));
  if (sent) {
    for (const body of lines(names.at(-1))) {
      const m = await hear(juliet, "direct", body);
      if (!m.getChild("delay", "urn:xmpp:delay")) fail("no delay in", m);
    }
  }
  same(await pages(juliet, 4), names.flatMap(lines));
  await juliet.stop();
  const again = await online(connect(jjid, jpw));
  same(again.heard.map((m) => m.body), []);
  await again.stop();
  done();
}

const romeo = connect(rjid, rpw), orchard = connect(rjid, rpw), juliet = connect(jjid, jpw), garden = connect(jjid, jpw);
for (const c of [romeo, orchard, juliet, garden]) {
  c.full = String(await c.start());
  await c.iqCaller.request(xml("iq", { type: "set" }, xml("enable", CARBONS)));
  await c.send(xml("presence"));
  await ping(c);
}
console.log("carbons");
const want = [];
for (let i = 0; i < 12; i++) {
  const [a, a2, b, b2] = i % 2 ? [romeo, orchard, juliet, garden] : [juliet, garden, romeo, orchard];
  want.push(`line ${i} <&>`);
  await say(a, b.full, `m${i}`, want.at(-1));
  const m = await hear(b, "direct", want.at(-1));
  const id = m.getChildren("stanza-id", "urn:xmpp:sid:0").find((s) => s.attrs.by === b.bare);
  if (!id?.attrs.id) fail("no stanza-id in", m);
  await hear(b2, "received", want.at(-1));
  await hear(a2, "sent", want.at(-1));
}
for (const c of [romeo, juliet]) {
  console.log("pages of", c.bare);
  same(await pages(c, 50), want);
  same(await pages(c, 5), want);
  same(await pages(c, 5, true), want);
  try {
    await page(c, xml("max", {}, "5"), xml("after", {}, "not-an-id"));
    fail("a page after an id that is not there");
  } catch (e) {
    if (e.condition !== "item-not-found") fail(e);
  }
}
console.log("what waited");
for (const c of [juliet, garden, orchard]) await c.stop();
for (let i = 0; i < 3; i++) {
  want.push(`waited ${i}`);
  await say(romeo, jjid, `w${i}`, want.at(-1));
}
await ping(romeo);
const later = connect(jjid, jpw);
await later.start();
await later.send(xml("presence"));
for (let i = 0; sent && i < 3; i++) {
  const m = await hear(later, "direct", `waited ${i}`);
  if (!m.getChild("delay", "urn:xmpp:delay")) fail("no delay in", m);
}
if (!sent) {
  await ping(later);
  same(later.heard.map((m) => m.body), []);
}
same(await pages(later, 7), want);
await later.stop();
const again = connect(jjid, jpw);
await again.start();
await again.send(xml("presence"));
await ping(again);
same(again.heard.map((m) => m.body), []);
await again.stop();
await romeo.stop();
done();
