"""A client that does what it is told, through aioxmpp. See remote_test.go for what it is told and says.

usage: remote_aio.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD
"""
import asyncio
import datetime
import logging
import os
import sys

import aioxmpp
import aioxmpp.dispatcher
import aioxmpp.rsm.xso
import aioxmpp.stream

import mam_aio

port, _, _, _, JULIET, jpw = sys.argv[1:]
if os.environ.get("CANTO_INTEROP_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)


def say(*words):
    print(*words, flush=True)


class Client:
    def __init__(self):
        self.bare = aioxmpp.JID.fromstr(JULIET)
        self.c = aioxmpp.PresenceManagedClient(
            self.bare.replace(resource="aio"), aioxmpp.make_security_layer(jpw),
            override_peer=[("localhost", int(port), aioxmpp.connector.STARTTLSConnector())])
        self.c.backoff_start = datetime.timedelta(milliseconds=100)
        self.c.backoff_cap = datetime.timedelta(milliseconds=500)
        self.carbons = self.c.summon(aioxmpp.CarbonsClient)
        self.c.summon(aioxmpp.DiscoClient)
        d = self.c.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
        for kind in (aioxmpp.MessageType.CHAT, aioxmpp.MessageType.NORMAL):
            d.register_callback(kind, None, self.take)
        self.up, self.waiting, self.pages = False, [], []
        self.c.on_stream_suspended.connect(self.down)
        self.c.on_stream_resumed.connect(self.resumed)
        self.c.on_stream_established.connect(self.established)
        self.c.on_failure.connect(self.failed)
        self.c.presence = aioxmpp.PresenceState(True)

    def failed(self, error):
        raise SystemExit("the client has failed: %r" % error)

    def down(self, _):
        if self.up:
            say("down")
        self.up = False

    def resumed(self):
        if self.c.stream.sm_enabled and not self.fresh:
            say("resumed")
            self.flush()

    fresh = True

    def established(self):
        self.fresh = True
        asyncio.ensure_future(self.begin())

    async def begin(self):
        try:
            await self.carbons.enable()
        except ConnectionError:
            return
        self.fresh = False
        say("bound", self.c.local_jid)
        self.flush()

    def flush(self):
        self.up = True
        waiting, self.waiting = self.waiting, []
        for m in waiting:
            self.send(m)

    def send(self, m):
        def state(_, new):
            if new == aioxmpp.stream.StanzaState.ACKED:
                say("acked", m.body.any())
        if not self.up:
            self.waiting.append(m)
            return
        self.c.enqueue(m, on_state_change=state)

    def take(self, m):
        if m.mam_result is not None:
            inner = m.mam_result.forwarded.stanza
            if inner.body:
                self.pages.append(("missed", m.mam_result.id_, inner.body.any()))
            return
        how = "direct"
        if m.xep0280_sent is not None:
            how, m = "sent", m.xep0280_sent.stanza
        elif m.xep0280_received is not None:
            how, m = "received", m.xep0280_received.stanza
        if m.body:
            ids = [s.id_ for s in m.xep0359_stanza_ids if s.by == self.bare]
            say("heard", how, ids[0] if ids else "-", m.body.any())

    async def archive(self, after):
        query = aioxmpp.rsm.xso.ResultSetMetadata.limit(100)
        if after:
            query.after = aioxmpp.rsm.xso.After(after)
        while True:
            self.pages = []
            try:
                fin = await self.c.send(mam_aio.query(query))
            except aioxmpp.errors.XMPPError as e:
                assert e.condition == aioxmpp.errors.ErrorCondition.ITEM_NOT_FOUND, e
                say("unknown")
                return
            for p in self.pages:
                say(*p)
            if fin.complete:
                say("read")
                return
            query = fin.rsm.next_page(100)


async def main():
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_event_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    c = Client()
    while True:
        line = (await lines.readline()).decode().rstrip("\n")
        what, _, rest = line.partition(" ")
        if what == "say":
            to, _, body = rest.partition(" ")
            m = aioxmpp.Message(to=aioxmpp.JID.fromstr(to), type_=aioxmpp.MessageType.CHAT)
            m.autoset_id()
            m.body[None] = body
            c.send(m)
        elif what == "archive":
            asyncio.ensure_future(c.archive(rest))
        elif what == "end":
            stopped = asyncio.Event()
            c.c.on_stopped.connect(stopped.set)
            c.c.presence = aioxmpp.PresenceState(False)
            await stopped.wait()
            say("ok")
            return
        elif not line:
            return


asyncio.get_event_loop().run_until_complete(main())
