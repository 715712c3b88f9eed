"""A session that is cut and resumed through slixmpp (XEP-0198), and a client that says it is inactive (XEP-0352). The
last line is "ok".

usage: resume_slix.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD
"""
import asyncio
import logging
import os
import sys

import slixmpp

port, ca, ROMEO, rpw, JULIET, jpw = sys.argv[1:]
if os.environ.get("CANTO_INTEROP_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password, *plugins):
        super().__init__(jid, password)
        for p in ("xep_0030", "xep_0199", "xep_0203") + plugins:
            self.register_plugin(p)
        self.ca_certs = ca
        self.heard, self.shown, self.events = [], [], []
        self.news = asyncio.Event()
        self.add_event_handler("message", lambda s: self.note(self.heard, s["body"]))
        self.add_event_handler("presence", lambda s: self.note(self.shown, (s["from"].full, s["type"])))
        for name in ("session_start", "sm_enabled", "session_resumed", "session_end", "disconnected"):
            self.add_event_handler(name, lambda _, n=name: self.note(self.events, n))

    def note(self, where, what):
        where.append(what)
        self.news.set()

    async def until(self, what, ok):
        async def look():
            while not ok():
                self.news.clear()
                await self.news.wait()
        try:
            await asyncio.wait_for(look(), 60)
        except asyncio.TimeoutError:
            raise SystemExit("%s: not %s: %s %s" % (self.boundjid, what, self.heard, self.events))

    async def online(self):
        self.connect(("127.0.0.1", int(port)))
        await self.until("online", lambda: "session_start" in self.events)
        await self.get_roster()
        self.send_presence()
        await self.ping()

    async def ping(self):
        await self["xep_0199"].ping("localhost", timeout=60)


async def main():
    romeo = Client(ROMEO + "/orchard", rpw)
    juliet = Client(JULIET + "/phone", jpw, "xep_0198", "xep_0352")
    await romeo.online()
    await juliet.online()
    await juliet.until("managed", lambda: "sm_enabled" in juliet.events)
    juliet.send_presence(pto=ROMEO + "/orchard")
    await romeo.until("told", lambda: romeo.shown)

    want, sent = [], []

    def say(n):
        for _ in range(n):
            want.append("line %d" % len(want))
            romeo.send_message(JULIET, want[-1], mtype="chat")

    for cut in range(3):
        print("cut", cut, flush=True)
        juliet.events.clear()
        say(5)
        if cut == 1:
            await juliet.until("reading", lambda: juliet.heard == want)
        # The client does not send again what was not acknowledged: it forgets it when it sends <resume/>.
        sent.append("from juliet %d" % cut)
        juliet.send_message(ROMEO + "/orchard", sent[-1], mtype="chat")
        await romeo.until("there", lambda: romeo.heard == sent)
        juliet.transport.abort()
        await juliet.until("cut", lambda: "disconnected" in juliet.events)
        say(5)
        await romeo.ping()
        juliet.connect(("127.0.0.1", int(port)))
        await juliet.until("resumed", lambda: "session_resumed" in juliet.events)
        say(5)
        await juliet.until("there", lambda: len(juliet.heard) >= len(want))
        await juliet.ping()
        assert juliet.heard == want, "\n got %s\nwant %s" % (juliet.heard, want)
        assert "session_end" not in juliet.events, juliet.events
        await romeo.ping()
        assert romeo.heard == sent, "\n got %s\nwant %s" % (romeo.heard, sent)
        assert [t for f, t in romeo.shown if f.startswith(JULIET)] == ["available"], romeo.shown

    print("inactive", flush=True)
    juliet["xep_0352"].send_inactive()
    await juliet.ping()
    before = len(juliet.shown)
    for show in ("away", "xa", "dnd"):
        romeo.send_presence(pto=JULIET + "/phone", pshow=show)
    await romeo.ping()
    await asyncio.sleep(0.5)
    assert len(juliet.shown) == before, juliet.shown
    say(1)
    await juliet.until("there", lambda: juliet.heard == want)
    assert len(juliet.shown) == before + 1 and juliet.shown[-1][1] == "dnd", juliet.shown
    for c in (romeo, juliet):
        await c.disconnect(wait=2.0)
    print("ok", flush=True)


asyncio.get_event_loop().run_until_complete(main())
