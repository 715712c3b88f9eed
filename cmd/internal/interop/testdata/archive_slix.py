"""The archive, its preferences, carbons, retractions and push through slixmpp. The last line is "ok".

The app server of push is a slixmpp client, too: it is logged in as another account.

Stage "archive" is all of it on a server that stays. "away NAME" sends three messages that begin with NAME to
an account that is away, and waits until they are in the sender's archive. "back NAME..." comes back to those of
the last name, once; the archive has those of all names.

usage: archive_slix.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD archive APP PASSWORD
       archive_slix.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD away|back NAME...
"""
import asyncio
import logging
import os
import sys

import slixmpp
from slixmpp.exceptions import IqError
from slixmpp.plugins import xep_0082
from slixmpp.xmlstream import ET
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

port, ca, ROMEO, rpw, JULIET, jpw, stage, *more = sys.argv[1:]
if os.environ.get("CANTO_INTEROP_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)
# What Prosody 0.12 does in a way of its own is left out when the script is checked against it.
PROSODY = os.environ.get("CANTO_INTEROP_PEER") == "prosody"
MAM, PUSH, SID = "urn:xmpp:mam:2", "urn:xmpp:push:0", "urn:xmpp:sid:0"


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        for p in ("xep_0030", "xep_0059", "xep_0199", "xep_0203", "xep_0280", "xep_0297", "xep_0313", "xep_0334",
                  "xep_0359", "xep_0424", "xep_0441"):
            self.register_plugin(p)
        self.ca_certs = ca
        self.seen = []
        self.news = asyncio.Event()
        self.up = asyncio.Event()
        self.add_event_handler("session_start", lambda _: self.up.set())
        for name in ("message", "carbon_received", "carbon_sent", "message_error"):
            self.add_event_handler(name, lambda s, n=name: self.note(n, s))

    def note(self, name, stanza):
        if name == "message" and (stanza.xml.find("{urn:xmpp:carbons:2}sent") is not None
                                  or stanza.xml.find("{urn:xmpp:carbons:2}received") is not None
                                  or stanza.xml.find("{%s}result" % MAM) is not None):
            return
        self.seen.append((name, stanza))
        self.news.set()

    async def online(self, carbons=False):
        self.connect(("127.0.0.1", int(port)))
        await asyncio.wait_for(self.up.wait(), 60)
        if carbons:
            await self["xep_0280"].enable()
        await self.get_roster()
        self.send_presence()
        await self.ping()
        return self

    async def ping(self):
        await self["xep_0199"].ping("localhost", timeout=60)

    async def expect(self, name):
        """The next of what was seen, which is of this name."""
        async def look():
            while not self.seen:
                self.news.clear()
                await self.news.wait()
            return self.seen.pop(0)
        try:
            n, s = await asyncio.wait_for(look(), 60)
        except asyncio.TimeoutError:
            raise SystemExit("%s: no %s" % (self.boundjid, name))
        assert n == name, "%s: %s, not %s: %s" % (self.boundjid, n, name, s)
        return s

    async def hear(self, name, body):
        s = await self.expect(name)
        inner = s if name == "message" else s[name]
        assert inner["body"] == body, "%s: not %r: %s" % (self.boundjid, body, s)
        return inner

    async def all(self, **how):
        """All results of a query, by pages."""
        return [r["mam_result"] async for r in self["xep_0313"].iterate(**how)]

    async def backwards(self, size):
        """All results, by pages from the last to the first. The iterator of the library stops after one page when the
        server says its index (XEP-0059 section 2.2): it adds up as if it went forwards."""
        got, before = [], "<before/>"
        while True:
            page, fin = await self.raw([], "<max>%d</max>%s" % (size, before))
            got = page + got
            if fin.xml.get("complete") == "true":
                return got
            same((len(page), fin["rsm"]["first"], fin["rsm"]["last"]), (size, page[0]["id"], page[-1]["id"]))
            before = "<before>%s</before>" % fin["rsm"]["first"]

    async def raw(self, fields=(), rsm="", more="", to=None):
        """One page of a query that is written by hand, and its fin."""
        iq = self.make_iq_set(ito=to)
        q = ET.fromstring("<query xmlns='%s' queryid='%s'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' "
                          "type='hidden'><value>%s</value></field>%s</x>%s%s</query>" % (
                              MAM, iq["id"], MAM,
                              "".join("<field var='%s'>%s</field>" % (k, "".join("<value>%s</value>" % v for v in vs))
                                      for k, vs in fields),
                              rsm and "<set xmlns='http://jabber.org/protocol/rsm'>%s</set>" % rsm, more))
        iq.append(q)
        got = []
        name = "raw " + iq["id"]
        self.register_handler(Callback(name, MatchXPath("{jabber:client}message/{%s}result" % MAM),
                                       lambda m: got.append(m["mam_result"])))
        try:
            fin = await iq.send(timeout=60)
        finally:
            self.remove_handler(name)
        return got, fin["mam_fin"]

    async def offline(self):
        await self.disconnect(wait=2.0)


def step(name):
    print(name, flush=True)


def bodies(results):
    return [r["forwarded"]["stanza"]["body"] for r in results]


def same(got, want):
    assert got == want, "\n got %s\nwant %s" % (got, want)


async def refused(coroutine, condition):
    try:
        await coroutine
    except IqError as e:
        assert e.condition == condition, "%s, not %s: %s" % (e.condition, condition, e.iq)
        return
    raise AssertionError("no %s" % condition)


def chat(client, to, body, *more):
    m = client.make_message(to, body, mtype="chat")
    m["id"] = client.new_id()
    for x in more:
        m.append(ET.fromstring(x))
    m.send()
    return m["id"]


async def archive(romeo, juliet):
    step("a chat of two and a note to oneself in between")
    want, others = [], []
    for i in range(24):
        a, b = (romeo, juliet) if i % 3 else (juliet, romeo)
        body = "line %02d" % i
        chat(a, b.boundjid.full, body)
        m = await b.hear("message", body)
        want.append(body)
        if i % 8 == 7:
            chat(romeo, ROMEO, "note %02d" % i)
            await romeo.hear("message", "note %02d" % i)
            others.append("note %02d" % i)

    step("a form of what can be asked")
    fields = (await juliet["xep_0313"].get_fields()).get_fields()
    for f in ("with", "start", "end", "before-id", "after-id", "ids"):
        assert f in fields, fields

    step("forwards and backwards")
    whole = await juliet.all(rsm={"max": 50})
    same(bodies(whole), want)
    same(bodies(await juliet.all(rsm={"max": 7})), want)
    same(bodies(await juliet.backwards(7)), want)
    ids = [r["id"] for r in whole]
    assert len(set(ids)) == len(ids), ids
    for r in whole:
        assert r["forwarded"]["delay"]["stamp"] is not None, r

    step("with")
    same(bodies(await romeo.all(with_jid=JULIET, rsm={"max": 7})), want)
    notes = bodies(await romeo.all(with_jid=ROMEO, rsm={"max": 7}))
    if not PROSODY:  # which has a note for its sender and once more for its recipient
        same(notes, others)
    same(bodies(await juliet.all(with_jid="stranger@localhost", rsm={"max": 7})), [])
    same(bodies(await juliet.all(with_jid=romeo.boundjid.full, rsm={"max": 50})), want)

    step("start and end")
    stamps = [r["forwarded"]["delay"]["stamp"] for r in whole]
    for i, j in ((0, 23), (5, 17), (12, 12)):
        between = [w for w, s in zip(want, stamps) if stamps[i] <= s <= stamps[j]]
        got = await juliet.raw([("start", [xep_0082.format_datetime(stamps[i])]),
                                ("end", [xep_0082.format_datetime(stamps[j])])], "<max>50</max>")
        same(bodies(got[0]), between)
    same((await juliet.raw([("end", ["2020-01-01T00:00:00Z"])]))[0], [])
    same((await juliet.raw([("start", ["2120-01-01T00:00:00Z"])]))[0], [])

    step("before-id, after-id, ids, flip")
    if not PROSODY:  # which forgets before-id when the last page is asked for
        same(bodies((await juliet.raw([("before-id", [ids[9]])], "<max>5</max><before/>"))[0]), want[4:9])
    same(bodies((await juliet.raw([("before-id", [ids[9]])], "<max>50</max>"))[0]), want[:9])
    same(bodies((await juliet.raw([("after-id", [ids[9]])], "<max>5</max>"))[0]), want[10:15])
    same(bodies((await juliet.raw([("ids", [ids[3], ids[20]])]))[0]), [want[3], want[20]])
    got, fin = await juliet.raw([], "<max>5</max>", "<flip-page/>")
    same(bodies(got), want[4::-1])
    same((fin["rsm"]["first"], fin["rsm"]["last"]), (ids[0], ids[4]))
    got, fin = await juliet.raw([], "<max>5</max><before/>", "<flip-page/>")
    same(bodies(got), want[:18:-1])
    same((fin["rsm"]["first"], fin["rsm"]["last"]), (ids[19], ids[23]))

    step("counts and the last page")
    got, fin = await juliet.raw([], "<max>0</max>")
    same((got, fin["rsm"]["count"]), ([], "24"))
    got, fin = await juliet.raw([], "<max>50</max>")
    assert fin.xml.get("complete") in ("true", "1"), fin
    got, fin = await juliet.raw([], "<max>5</max>")
    assert fin.xml.get("complete") in (None, "false", "0"), fin

    step("metadata")
    meta = (await juliet["xep_0313"].get_archive_metadata())["mam_metadata"]
    same((meta["start"]["id"], meta["end"]["id"]), (ids[0], ids[-1]))
    same((meta["start"]["timestamp"], meta["end"]["timestamp"]), (stamps[0], stamps[-1]))

    step("what is refused")
    await refused(juliet.raw([], "<after>not-an-id</after>"), "item-not-found")
    await refused(juliet.raw([("after-id", ["not-an-id"])]), "item-not-found")
    if not PROSODY:  # which ignores an unknown field, and has no answer about another's archive
        await refused(juliet.raw([("{urn:example}mood", ["sad"])]), "feature-not-implemented")
        await refused(juliet.raw(to=ROMEO), "forbidden")


async def preferences(romeo, juliet):
    step("preferences")
    default, always, never = await juliet["xep_0441"].get_preferences()
    assert default in ("always", "roster"), default
    _, fin = await juliet.raw([], "<max>1</max><before/>")
    last = fin["rsm"]["last"]

    async def after():
        return bodies((await juliet.raw([("after-id", [last])], "<max>50</max>"))[0])
    await juliet["xep_0441"].set_preferences("never", [], [])
    same((await juliet["xep_0441"].get_preferences())[0], "never")
    chat(romeo, juliet.boundjid.full, "not to be kept")
    m = await juliet.hear("message", "not to be kept")
    if m.xml.find("{%s}stanza-id" % SID) is not None:
        raise AssertionError("an id of a message that is in no archive: %s" % m)
    same(await after(), [])
    await juliet["xep_0441"].set_preferences("never", [slixmpp.JID(ROMEO)], [])
    got = await juliet["xep_0441"].get_preferences()
    same((got[0], {str(j) for j in got[1]}, set(got[2])), ("never", {ROMEO}, set()))
    chat(romeo, juliet.boundjid.full, "always to be kept")
    await juliet.hear("message", "always to be kept")
    same(await after(), ["always to be kept"])
    await juliet["xep_0441"].set_preferences("always", [], [slixmpp.JID(ROMEO)])
    chat(romeo, juliet.boundjid.full, "never to be kept")
    await juliet.hear("message", "never to be kept")
    same(await after(), ["always to be kept"])
    await juliet["xep_0441"].set_preferences("roster", [], [])
    chat(romeo, juliet.boundjid.full, "from a stranger")
    await juliet.hear("message", "from a stranger")
    same(await after(), ["always to be kept"])
    await juliet["xep_0441"].set_preferences("always", [], [])
    # All of them are in the archive of the other side.
    got, _ = await romeo.raw([], "<max>4</max><before/>")
    same(bodies(got), ["not to be kept", "always to be kept", "never to be kept", "from a stranger"])


async def carbons(romeo, juliet):
    step("carbons")
    garden = await Client(JULIET + "/garden", jpw).online(carbons=True)
    orchard = await Client(ROMEO + "/orchard", rpw).online(carbons=True)
    chat(romeo, juliet.boundjid.full, "to one device")
    m = await juliet.hear("message", "to one device")
    c = await garden.hear("carbon_received", "to one device")
    assert c["from"] == romeo.boundjid and c["to"] == juliet.boundjid, c
    c = await orchard.hear("carbon_sent", "to one device")
    assert c["from"] == romeo.boundjid and c["to"] == juliet.boundjid, c
    step("private messages and no-copy")
    private = "<private xmlns='urn:xmpp:carbons:2'/>"
    no_copy = "<no-copy xmlns='urn:xmpp:hints'/>"
    chat(romeo, juliet.boundjid.full, "private", private, no_copy)
    await juliet.hear("message", "private")
    if not PROSODY:  # which copies a message with this hint alone
        chat(romeo, juliet.boundjid.full, "no copy", no_copy)
        await juliet.hear("message", "no copy")
    chat(juliet, romeo.boundjid.full, "after it")
    await romeo.hear("message", "after it")
    await garden.hear("carbon_sent", "after it")
    await orchard.hear("carbon_received", "after it")
    step("no carbon of a forged carbon")
    chat(romeo, juliet.boundjid.full, "forged", "<received xmlns='urn:xmpp:carbons:2'><forwarded "
         "xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='nurse@localhost/a' to='%s' type='chat'>"
         "<body>a lie</body></message></forwarded></received>" % JULIET)
    chat(romeo, juliet.boundjid.full, "after the forgery")
    for c, name in ((juliet, "message"), (garden, "carbon_received"), (orchard, "carbon_sent")):
        body = ""
        while body != "after the forgery":  # the message around the forgery may come, or be refused
            s = await c.expect(name)
            body = (s if name == "message" else s[name])["body"]
            assert body != "a lie", "%s: a forged carbon: %s" % (c.boundjid, s)
    while romeo.seen:  # its refusal
        await romeo.expect("message_error")
    step("carbons end when they are disabled")
    await garden["xep_0280"].disable()
    chat(romeo, juliet.boundjid.full, "for one")
    await juliet.hear("message", "for one")
    await garden.ping()
    same(garden.seen, [])
    await garden.offline()
    await orchard.offline()


async def retraction(romeo, juliet):
    step("a retraction by the author, and one by another")
    info = await juliet["xep_0030"].get_info(JULIET)
    assert "urn:xmpp:message-retract:1#tombstone" in info["disco_info"]["features"], info
    lines, ids = ["said in haste", "said with thought", "said by mistake"], []
    _, fin = await romeo.raw([], "<max>1</max><before/>")
    before = {romeo: fin["rsm"]["last"]}
    _, fin = await juliet.raw([], "<max>1</max><before/>")
    before[juliet] = fin["rsm"]["last"]
    for body in lines:
        ids.append(chat(romeo, juliet.boundjid.full, body))
        await juliet.hear("message", body)
    store = "<store xmlns='urn:xmpp:hints'/>"
    retract = "<retract xmlns='urn:xmpp:message-retract:1' id='%s'/>"
    chat(juliet, romeo.boundjid.full, "you did not say it", retract % ids[1], store)
    await romeo.hear("message", "you did not say it")
    retraction = chat(romeo, juliet.boundjid.full, "I did not say it", retract % ids[0], store)
    await juliet.hear("message", "I did not say it")
    # The library's own is of version 0.
    romeo["xep_0424"].send_retraction(juliet.boundjid.full, ids[2], fallback_text="an old retraction")
    await juliet.hear("message", "an old retraction")
    for c in (juliet, romeo):
        deadline = asyncio.get_event_loop().time() + 20
        while True:  # a server may do it behind the retraction
            rows, _ = await c.raw([("after-id", [before[c]])], "<max>50</max>")
            if bodies(rows)[0:3:2] == ["", ""] or asyncio.get_event_loop().time() > deadline:
                break
        same(bodies(rows), ["", "said with thought", "", "you did not say it", "I did not say it", "an old retraction"])
        for row in (rows[0], rows[2]):
            m = row["forwarded"]["stanza"]
            same((m["from"].bare, m["to"].bare), (ROMEO, JULIET))
            gone = m.xml.find("{urn:xmpp:message-retract:1}retracted")
            if gone is None:
                gone = m.xml.find("{urn:xmpp:message-retract:0}retracted")
            assert gone is not None and gone.get("stamp"), "no tombstone: %s" % m
            if row is rows[0]:
                same(gone.get("id"), retraction)


class AppServer(Client):
    """An app server: answers what is published with a result, or with an error."""

    def __init__(self, *args):
        super().__init__(*args)
        self.pushes, self.answer = asyncio.Queue(), "result"
        self.register_handler(Callback("push", MatchXPath("{jabber:client}iq/{http://jabber.org/protocol/pubsub}pubsub"),
                                       self.push))

    def push(self, iq):
        self.pushes.put_nowait(iq)
        reply = iq.reply(clear=True)
        if self.answer == "gone":
            reply["type"] = "error"
            reply["error"]["type"] = "cancel"
            reply["error"]["condition"] = "item-not-found"
        reply.send()

    async def pushed(self):
        iq = await asyncio.wait_for(self.pushes.get(), 60)
        publish = iq.xml.find("{http://jabber.org/protocol/pubsub}pubsub/{http://jabber.org/protocol/pubsub}publish")
        same(publish.get("node"), "a node of the app")
        n = publish.find("{http://jabber.org/protocol/pubsub}item/{%s}notification" % PUSH)
        assert n is not None, iq
        assert "secret text" not in ET.tostring(iq.xml, "unicode"), "a body is pushed: %s" % iq
        options = iq.xml.find("{http://jabber.org/protocol/pubsub}pubsub/{http://jabber.org/protocol/pubsub}publish-options")
        assert options is not None and "a token" in ET.tostring(options, "unicode"), iq
        return iq


async def push(romeo, juliet):
    step("push")
    app = await AppServer(more[0] + "/server", more[1]).online()
    info = await juliet["xep_0030"].get_info(JULIET)
    assert PUSH in info["disco_info"]["features"], info
    iq = juliet.make_iq_set()
    iq.append(ET.fromstring(
        "<enable xmlns='%s' jid='%s' node='a node of the app'><x xmlns='jabber:x:data' type='submit'><field "
        "var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field><field var='secret'>"
        "<value>a token</value></field></x></enable>" % (PUSH, app.boundjid.full)))
    await iq.send()
    await juliet.offline()
    # The account has no session by now if a message for it has waited.
    chat(romeo, JULIET, "secret text 1")
    await app.pushed()
    step("one push a message, none for chat states")
    if not PROSODY:  # which pushes a chat state
        m = romeo.make_message(JULIET, mtype="chat")
        m.append(ET.fromstring("<composing xmlns='http://jabber.org/protocol/chatstates'/>"))
        m.send()
    chat(romeo, JULIET, "secret text 2")
    await app.pushed()
    await romeo.ping()
    await app.ping()
    assert app.pushes.empty(), app.pushes.get_nowait()
    step("no push to an account that is there")
    juliet = await Client(JULIET + "/balcony", jpw).online()
    await juliet.hear("message", "secret text 1")
    await juliet.hear("message", "secret text 2")
    if not PROSODY:  # which pushes to an account that is there
        chat(romeo, juliet.boundjid.full, "secret text 3")
        await juliet.hear("message", "secret text 3")
    await app.ping()
    assert app.pushes.empty(), app.pushes.get_nowait()
    await juliet.offline()
    step("item-not-found ends a registration")
    app.answer = "gone"
    chat(romeo, JULIET, "secret text 4")
    await app.pushed()
    app.answer = "result"
    await app.ping()
    # The account has seen the error before this message has gone through the server.
    chat(romeo, app.boundjid.full, "before the fifth")
    await app.hear("message", "before the fifth")
    chat(romeo, JULIET, "secret text 5")
    await romeo.ping()
    # A push of the fifth message would have been sent before this answer comes back to the app server.
    chat(romeo, app.boundjid.full, "after the fifth")
    await app.hear("message", "after the fifth")
    assert app.pushes.empty(), app.pushes.get_nowait()
    juliet = await Client(JULIET + "/balcony", jpw).online()
    await juliet.hear("message", "secret text 4")
    await juliet.hear("message", "secret text 5")
    await juliet.offline()
    await app.offline()


def lines(name):
    return ["%s %02d" % (name, i) for i in range(3)]


async def away():
    romeo = await Client(ROMEO + "/garden", rpw).online()
    for body in lines(more[0]):
        chat(romeo, JULIET, body)
    while bodies((await romeo.raw([], "<max>3</max><before/>"))[0]) != lines(more[0]):
        await romeo.ping()
    await romeo.offline()


async def back():
    juliet = await Client(JULIET + "/balcony", jpw).online()
    for body in lines(more[-1]):
        m = await juliet.hear("message", body)
        assert m["delay"]["stamp"] is not None, m
    same(bodies(await juliet.all(rsm={"max": 4})), [body for name in more for body in lines(name)])
    await juliet.offline()
    again = await Client(JULIET + "/balcony", jpw).online()
    same(again.seen, [])
    await again.offline()


async def archive_and_more():
    romeo = await Client(ROMEO + "/garden", rpw).online()
    juliet = await Client(JULIET + "/balcony", jpw).online()
    await archive(romeo, juliet)
    await preferences(romeo, juliet)
    await carbons(romeo, juliet)
    if not PROSODY:  # which leaves a retracted message in the archive
        await retraction(romeo, juliet)
    await push(romeo, juliet)
    await romeo.offline()


stages = {"archive": archive_and_more, "away": away, "back": back}
asyncio.get_event_loop().run_until_complete(asyncio.wait_for(stages[stage](), 115))
step("ok")
