"""Carbons both ways, pages of the archive and what waited, through aioxmpp. The last line is "ok".

The CA is what SSL_CERT_FILE names.

Stage "archive" is all of it on a server that stays. "away NAME" sends three messages that begin with NAME to
an account that is away, and waits until they are in the sender's archive. "back NAME..." comes back to those of
the last name, once; the archive has those of all names.

usage: archive_aio.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD archive
       archive_aio.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD away|back NAME...
"""
import asyncio
import sys

import aioxmpp
import aioxmpp.dispatcher
import aioxmpp.rsm.xso

import mam_aio

port, _, ROMEO, rpw, JULIET, jpw, stage, *more = sys.argv[1:]


def step(name):
    print(name, flush=True)


def same(got, want):
    assert got == want, "\n got %s\nwant %s" % (got, want)


class Client:
    def __init__(self, jid, password):
        connector = aioxmpp.connector.STARTTLSConnector()
        self.bare = aioxmpp.JID.fromstr(jid).bare()
        self.c = aioxmpp.PresenceManagedClient(aioxmpp.JID.fromstr(jid), aioxmpp.make_security_layer(password),
                                               override_peer=[("localhost", int(port), connector)])
        self.c.summon(aioxmpp.DiscoClient)
        self.c.summon(aioxmpp.RosterClient)
        self.carbons = self.c.summon(aioxmpp.CarbonsClient)
        self.heard, self.results = asyncio.Queue(), []
        d = self.c.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
        for kind in (aioxmpp.MessageType.CHAT, aioxmpp.MessageType.NORMAL):
            d.register_callback(kind, None, self.take)

    def take(self, m):
        if m.mam_result is not None:
            assert m.from_ in (None, self.bare), m
            self.results.append(m.mam_result)
        elif m.xep0280_sent is not None or m.xep0280_received is not None:
            assert m.from_ == self.bare, m
            how = "sent" if m.xep0280_sent is not None else "received"
            self.heard.put_nowait((how, (m.xep0280_sent or m.xep0280_received).stanza))
        elif m.body:
            self.heard.put_nowait(("direct", m))

    async def hear(self, how, body):
        got, m = await asyncio.wait_for(self.heard.get(), 60)
        same((got, m.body.any()), (how, body))
        return m

    async def say(self, to, body):
        m = aioxmpp.Message(to=to, type_=aioxmpp.MessageType.CHAT)
        m.autoset_id()
        m.body[None] = body
        await self.c.send(m)

    async def ping(self):
        await aioxmpp.ping.ping(self.c, aioxmpp.JID.fromstr("localhost"))

    async def page(self, rsm, **fields):
        self.results = []
        fin = await self.c.send(mam_aio.query(rsm, **fields))
        return self.results, fin

    async def pages(self, size, backwards=False, **fields):
        rsm = aioxmpp.rsm.xso.ResultSetMetadata
        got, limits = [], rsm.last_page(size) if backwards else rsm.limit(size)
        while True:
            page, fin = await self.page(limits, **fields)
            got = page + got if backwards else got + page
            if fin.complete:
                return got
            assert 0 < len(page) <= size, page
            limits = fin.rsm.previous_page(size) if backwards else fin.rsm.next_page(size)


def bodies(results):
    return [r.forwarded.stanza.body.any() for r in results]


def lines(name):
    return ["%s %02d" % (name, i) for i in range(3)]


async def away():
    romeo = Client(ROMEO, rpw)
    async with romeo.c.connected():
        for body in lines(more[0]):
            await romeo.say(aioxmpp.JID.fromstr(JULIET), body)
        while bodies((await romeo.page(aioxmpp.rsm.xso.ResultSetMetadata.last_page(3)))[0]) != lines(more[0]):
            await romeo.ping()


async def back():
    juliet = Client(JULIET, jpw)
    async with juliet.c.connected():
        for body in lines(more[-1]):
            m = await juliet.hear("direct", body)
            assert m.xep0203_delay, m
        same(bodies(await juliet.pages(4)), [body for name in more for body in lines(name)])
    juliet = Client(JULIET, jpw)
    async with juliet.c.connected():
        await juliet.ping()
        assert juliet.heard.empty(), juliet.heard.get_nowait()


async def archive():
    romeo, orchard, juliet, garden = [Client(j, p) for j, p in (
        (ROMEO, rpw), (ROMEO, rpw), (JULIET, jpw), (JULIET, jpw))]
    async with romeo.c.connected(), orchard.c.connected(), juliet.c.connected(), garden.c.connected():
        step("carbons both ways")
        for c in (orchard, garden):
            await c.carbons.enable()
        want = []
        for i in range(10):
            a, a2, b, b2 = (romeo, orchard, juliet, garden) if i % 2 else (juliet, garden, romeo, orchard)
            want.append("line %d" % i)
            await a.say(b.c.local_jid, want[-1])
            m = await b.hear("direct", want[-1])
            assert [s for s in m.xep0359_stanza_ids if s.by == b.bare and s.id_], m
            copied = await b2.hear("received", want[-1])
            same((copied.from_, copied.to), (a.c.local_jid, b.c.local_jid))
            copied = await a2.hear("sent", want[-1])
            same((copied.from_, copied.to), (a.c.local_jid, b.c.local_jid))
        for c in (orchard, garden):
            await c.carbons.disable()
        want.append("not copied")
        await romeo.say(juliet.c.local_jid, want[-1])
        await juliet.hear("direct", want[-1])
        for c in (orchard, garden):
            await c.ping()
            assert c.heard.empty(), c.heard.get_nowait()
        for c in (romeo, juliet):
            step("pages of %s" % str(c.bare))
            same(bodies(await c.pages(50)), want)
            same(bodies(await c.pages(3)), want)
            same(bodies(await c.pages(3, backwards=True)), want)
            same(bodies(await c.pages(4, **{"with": str((juliet if c is romeo else romeo).bare)})), want)
            whole = await c.pages(50)
            same(bodies(await c.pages(4, after_id=whole[3].id_)), want[4:])
    step("what waited")
    async with romeo.c.connected():
        for i in range(3):
            await romeo.say(juliet.bare, "waited %d" % i)
        await romeo.ping()
    juliet = Client(JULIET, jpw)
    async with juliet.c.connected():
        for i in range(3):
            m = await juliet.hear("direct", "waited %d" % i)
            assert m.xep0203_delay, m
        same(bodies(await juliet.pages(5)), want + ["waited %d" % i for i in range(3)])
    juliet = Client(JULIET, jpw)
    async with juliet.c.connected():
        await juliet.ping()
        assert juliet.heard.empty(), juliet.heard.get_nowait()


stages = {"archive": archive, "away": away, "back": back}
asyncio.get_event_loop().run_until_complete(asyncio.wait_for(stages[stage](), 115))
step("ok")
