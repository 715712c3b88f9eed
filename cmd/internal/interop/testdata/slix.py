"""Two users of Canto through slixmpp: every step prints its name, and the last line is "ok".

Nothing is set but addresses, passwords and the CA: the mechanism and the channel binding are the library's choice.

usage: slix.py PORT starttls|direct CAFILE ROMEO PASSWORD JULIET PASSWORD STAGE
"""
import asyncio
import logging
import ssl
import sys

import slixmpp
from slixmpp.exceptions import IqError

port, how, ca, ROMEO, rpw, JULIET, jpw, stage = sys.argv[1:9]
if len(sys.argv) > 9:
    logging.basicConfig(level=logging.DEBUG)


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        for p in ("xep_0030", "xep_0054", "xep_0092", "xep_0191", "xep_0199", "xep_0202", "xep_0203", "xep_0012", "xep_0049"):
            self.register_plugin(p)
        self.ca_certs = ca
        self.seen = []
        self.failed = None
        self.news = asyncio.Event()
        self.up = asyncio.Event()
        self.auto_authorize = None
        self.auto_subscribe = False
        self.add_event_handler("session_start", lambda _: self.up.set())
        self.add_event_handler("failed_all_auth", self.fail)
        for name in ("message", "message_error", "presence_subscribe", "presence_subscribed", "presence_available",
                     "presence_unavailable", "roster_update", "changed_status"):
            self.add_event_handler(name, lambda s, n=name: self.note(n, s))

    def fail(self, what):
        self.failed = what
        self.up.set()

    def note(self, name, stanza):
        self.seen.append((name, stanza))
        self.news.set()

    async def online(self):
        self.connect(("127.0.0.1", int(port)), use_ssl=how == "direct")
        await asyncio.wait_for(self.up.wait(), 20)
        if self.failed is not None:
            raise SystemExit("authentication failed: %s" % self.failed)
        return self

    async def expect(self, name, match=lambda s: True):
        async def look():
            while True:
                for i, (n, s) in enumerate(self.seen):
                    if n == name and match(s):
                        del self.seen[i]
                        return s
                self.news.clear()
                await self.news.wait()
        try:
            return await asyncio.wait_for(look(), 15)
        except asyncio.TimeoutError:
            raise SystemExit("%s: no %s; seen: %s" % (self.boundjid, name, [(n, str(s)) for n, s in self.seen]))

    async def offline(self):
        await self.disconnect(wait=2.0)


def step(name):
    print(name, flush=True)


async def chat():
    romeo = await Client(ROMEO + "/orchard", rpw).online()
    step("romeo is bound as %s by %s" % (romeo.boundjid, romeo["feature_mechanisms"].mech.name))
    assert str(romeo.boundjid) == ROMEO + "/orchard"
    juliet = await Client(JULIET + "/balcony", jpw).online()
    await romeo.get_roster()
    await juliet.get_roster()
    romeo.send_presence()
    juliet.send_presence()
    await romeo.expect("presence_available", lambda s: s["from"] == romeo.boundjid)

    step("two users subscribe to one another")
    romeo.send_presence(pto=JULIET, ptype="subscribe")
    await juliet.expect("presence_subscribe", lambda s: s["from"].bare == ROMEO)
    juliet.send_presence(pto=ROMEO, ptype="subscribed")
    await romeo.expect("presence_subscribed")
    await romeo.expect("presence_available", lambda s: s["from"].bare == JULIET)
    juliet.send_presence(pto=ROMEO, ptype="subscribe")
    await romeo.expect("presence_subscribe")
    romeo.send_presence(pto=JULIET, ptype="subscribed")
    await juliet.expect("presence_subscribed")
    await juliet.expect("presence_available", lambda s: s["from"].bare == ROMEO)
    assert romeo.client_roster[JULIET]["subscription"] == "both"

    step("presence")
    romeo.send_presence(pshow="away", pstatus="in the orchard")
    p = await juliet.expect("changed_status", lambda s: s["show"] == "away")
    assert p["status"] == "in the orchard"

    step("chat both ways")
    romeo.send_message(JULIET, "Wherefore <art> & \"thou\" \u2764", mtype="chat")
    m = await juliet.expect("message")
    assert m["body"] == "Wherefore <art> & \"thou\" \u2764" and m["from"] == romeo.boundjid, m
    m.reply("I am here").send()
    m = await romeo.expect("message")
    assert m["body"] == "I am here" and m["from"] == juliet.boundjid

    step("a message to oneself")
    romeo.send_message(ROMEO, "note to self", mtype="chat")
    m = await romeo.expect("message", lambda s: s["body"] == "note to self")

    step("roster push to a second resource")
    second = await Client(JULIET + "/garden", jpw).online()
    await second.get_roster()
    second.seen.clear()
    await juliet.update_roster("nurse@localhost", name="Nurse", groups=["House"])
    await second.expect("roster_update", lambda s: any(str(j) == "nurse@localhost" for j in s["roster"]["items"]))
    await juliet.del_roster_item("nurse@localhost")
    await second.offline()

    step("ping")
    assert await romeo["xep_0199"].ping("localhost", timeout=10) >= 0
    assert await romeo["xep_0199"].ping(juliet.boundjid, timeout=10) >= 0

    step("vcard")
    card = romeo["xep_0054"].make_vcard()
    card["NICKNAME"] = "Montague"
    await romeo["xep_0054"].publish_vcard(card)
    got = await juliet["xep_0054"].get_vcard(ROMEO)
    assert "Montague" in str(got["vcard_temp"]), got

    step("version, time, disco")
    v = await romeo["xep_0092"].get_version("localhost")
    assert "anto" in v["software_version"]["name"], v
    await romeo["xep_0202"].get_entity_time("localhost")
    info = await romeo["xep_0030"].get_info("localhost")
    assert "urn:xmpp:ping" in info["disco_info"]["features"], info

    step("blocking")
    await juliet["xep_0191"].block(slixmpp.JID(ROMEO))
    await romeo.expect("presence_unavailable", lambda s: s["from"].bare == JULIET)
    romeo.send_message(JULIET, "can you hear me?", mtype="chat")
    e = await romeo.expect("message_error")
    assert e["error"]["condition"] == "service-unavailable", e
    await juliet["xep_0191"].unblock(slixmpp.JID(ROMEO))
    await romeo.expect("presence_available", lambda s: s["from"].bare == JULIET)
    assert not [s for n, s in juliet.seen if n == "message"], juliet.seen

    step("unavailable")
    await juliet.offline()
    await romeo.expect("presence_unavailable", lambda s: s["from"].bare == JULIET)

    step("kept for later")
    for i in range(3):
        romeo.send_message(JULIET, "later %d" % i, mtype="chat")
    await romeo["xep_0199"].ping("localhost", timeout=10)
    await romeo.offline()


async def later():
    juliet = await Client(JULIET + "/balcony", jpw).online()
    await juliet.get_roster()
    assert juliet.client_roster[ROMEO]["subscription"] == "both"
    juliet.send_presence()
    step("offline delivery after a restart")
    for i in range(3):
        m = await juliet.expect("message")
        assert m["body"] == "later %d" % i, m
        assert m["delay"]["stamp"] is not None
    await juliet.offline()


async def login():
    romeo = await Client(ROMEO, rpw).online()
    step("bound as %s by %s" % (romeo.boundjid, romeo["feature_mechanisms"].mech.name))
    romeo.send_presence()
    await romeo.get_roster()
    romeo.send_message(ROMEO, "note to self", mtype="chat")
    await romeo.expect("message", lambda s: s["body"] == "note to self")
    await romeo.offline()


async def wrong():
    c = Client(ROMEO, "not the password")
    try:
        await c.online()
    except SystemExit:
        step("refused")
        await c.offline()
        return
    raise SystemExit("a wrong password was taken")


asyncio.get_event_loop().run_until_complete(asyncio.wait_for({"chat": chat, "later": later, "login": login, "wrong": wrong}[stage](), 90))
step("ok")
