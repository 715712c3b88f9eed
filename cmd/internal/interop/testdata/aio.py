"""Login, roster, presence and chat through aioxmpp. The last line is "ok".

Nothing is set but addresses and passwords; the CA is what SSL_CERT_FILE names.

usage: aio.py PORT starttls|direct ROMEO PASSWORD JULIET PASSWORD
"""
import asyncio
import sys

import aioxmpp
import aioxmpp.dispatcher

port, how, ROMEO, rpw, JULIET, jpw = sys.argv[1:7]


def client(jid, password):
    security = aioxmpp.make_security_layer(password)
    kind = aioxmpp.connector.XMPPOverTLSConnector if how == "direct" else aioxmpp.connector.STARTTLSConnector
    return aioxmpp.PresenceManagedClient(aioxmpp.JID.fromstr(jid), security,
                                         override_peer=[("localhost", int(port), kind())])


async def main():
    romeo, juliet = client(ROMEO, rpw), client(JULIET, jpw)
    got = asyncio.Queue()
    for c in (romeo, juliet):
        c.summon(aioxmpp.RosterClient)
        d = c.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
        d.register_callback(aioxmpp.MessageType.CHAT, None, lambda m, who=c: got.put_nowait((who, m)))
    async with romeo.connected() as a, juliet.connected() as b:
        print("bound", romeo.local_jid, juliet.local_jid, flush=True)
        for n in range(3):
            m = aioxmpp.Message(to=juliet.local_jid, type_=aioxmpp.MessageType.CHAT)
            m.body[None] = "number %d" % n
            await a.send(m)
        for n in range(3):
            who, m = await asyncio.wait_for(got.get(), 10)
            assert who is juliet and m.body.any() == "number %d" % n, m
        m = aioxmpp.Message(to=romeo.local_jid, type_=aioxmpp.MessageType.CHAT)
        m.body[None] = "back"
        await b.send(m)
        who, m = await asyncio.wait_for(got.get(), 10)
        assert who is romeo and m.body.any() == "back"
        info = await romeo.summon(aioxmpp.DiscoClient).query_info(aioxmpp.JID.fromstr("localhost"))
        assert "urn:xmpp:ping" in info.features, info.features
        await aioxmpp.ping.ping(romeo, aioxmpp.JID.fromstr("localhost"))
    print("ok", flush=True)


asyncio.get_event_loop().run_until_complete(asyncio.wait_for(main(), 60))
