"""A client that does what it is told, through nbxmpp, the library of Gajim. See remote_test.go for what it is told
and says.

usage: remote_nbx.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD
"""
import logging
import os
import sys

from gi.repository import Gio, GLib
from nbxmpp.client import Client as Nbxmpp
from nbxmpp.const import ConnectionProtocol, ConnectionType, Mode, StreamState
from nbxmpp.errors import StanzaError
from nbxmpp.protocol import Iq, Message, Presence
from nbxmpp.simplexml import Node
from nbxmpp.structs import StanzaHandler

port, ca, _, _, JULIET, jpw = sys.argv[1:]
if os.environ.get("CANTO_INTEROP_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)
loop = GLib.MainLoop()


def say(*words):
    print(*words, flush=True)


class Client:
    def __init__(self):
        self.up, self.ending, self.waiting, self.pages = False, False, [], []
        local, domain = JULIET.split("@")
        c = self.c = Nbxmpp(log_context=JULIET)
        c.set_domain(domain)
        c.set_username(local)
        c.set_password(jpw)
        c.set_resource("nbx")
        c.set_mode(Mode.CLIENT)
        c.set_custom_host("localhost:" + port, ConnectionProtocol.TCP, ConnectionType.START_TLS)
        c.set_accepted_certificates([Gio.TlsCertificate.new_from_file(ca)])
        c.subscribe("connected", self.connected)
        c.subscribe("resume-successful", self.resumed)
        c.subscribe("connection-failed", self.lost)
        c.subscribe("disconnected", self.lost)
        c.register_handler(StanzaHandler(name="message", callback=self.take, priority=60))
        c.register_handler(StanzaHandler(name="presence", callback=self.show, priority=60))
        c.connect()

    def connected(self, *_):
        iq = Iq("set")
        iq.setTag("enable", namespace="urn:xmpp:carbons:2")
        self.c.send_stanza(iq, callback=self.bound)

    def bound(self, *_):
        self.c.send_stanza(Presence())
        say("bound", self.c.get_bound_jid())
        self.flush()

    def resumed(self, *_):
        say("resumed")
        GLib.idle_add(self.flush)  # behind what the library sends again

    def lost(self, *_):
        if self.ending:
            say("ok")
            loop.quit()
            return
        if self.up:
            say("down")
        self.up = False
        GLib.timeout_add(200, self.c.connect)

    def flush(self):
        self.up = self.c.state == StreamState.ACTIVE
        while self.up and self.waiting:
            self.c.send_stanza(self.waiting.pop(0))
        return False

    def take(self, _client, stanza, properties):
        if properties.is_mam_message:
            if properties.body:
                self.pages.append(("missed", properties.mam.id, properties.body))
        elif properties.body:
            how = properties.carbon.type if properties.is_carbon_message else "direct"
            ids = [i.id for i in properties.stanza_ids or [] if str(i.by) == JULIET]
            say("heard", how, ids[0] if ids else "-", properties.body)

    def show(self, _client, stanza, properties):
        if properties.jid.bare != JULIET:
            say("shown", stanza.getShow() or "-")

    def archive(self, after):
        self.pages = []
        self.c.get_module("MAM").make_query(None, queryid="q", max_=100, after=after or None, callback=self.page)

    def page(self, task):
        try:
            data = task.finish()
        except StanzaError as e:
            assert e.condition == "item-not-found", e
            say("unknown")
            return
        for p in self.pages:
            say(*p)
        if data.complete:
            say("read")
        else:
            self.archive(data.rsm.last)

    def told(self, channel, _):
        line = channel.readline()
        what, _, rest = line.rstrip("\n").partition(" ")
        if what == "say":
            to, _, body = rest.partition(" ")
            self.waiting.append(Message(to=to, body=body, typ="chat"))
            if self.up:
                self.flush()
        elif what == "archive":
            self.archive(rest)
        elif what == "inactive":
            self.c.send_nonza(Node("urn:xmpp:csi:0 inactive"))
        elif what == "end":
            self.ending = True
            self.c.disconnect()
        elif not line:
            loop.quit()
            return False
        return True


client = Client()
stdin = GLib.IOChannel.unix_new(sys.stdin.fileno())
GLib.io_add_watch(stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN | GLib.IOCondition.HUP, client.told)
loop.run()
