"""The archive, its preferences and carbons through nbxmpp, the library of Gajim. The last line is "ok".

usage: archive_nbx.py PORT CAFILE ROMEO PASSWORD JULIET PASSWORD
"""
import datetime
import sys
import traceback

from gi.repository import Gio, GLib
from nbxmpp.client import Client as Nbxmpp
from nbxmpp.const import ConnectionProtocol, ConnectionType, Mode
from nbxmpp.protocol import Iq, Message, Presence
from nbxmpp.structs import StanzaHandler

port, ca, ROMEO, rpw, JULIET, jpw = sys.argv[1:7]
loop = GLib.MainLoop()
MAM = "urn:xmpp:mam:2"


class Done(Exception):
    pass


class Client:
    def __init__(self, jid, password):
        self.heard, self.results = [], []
        self.connected = False
        self.failed = None
        local, domain = jid.split("@")
        c = self.c = Nbxmpp(log_context=jid)
        c.set_domain(domain)
        c.set_username(local)
        c.set_password(password)
        c.set_mode(Mode.CLIENT)
        c.set_custom_host("localhost:" + port, ConnectionProtocol.TCP, ConnectionType.START_TLS)
        c.set_accepted_certificates([Gio.TlsCertificate.new_from_file(ca)])
        c.subscribe("connected", self.on_connected)
        c.subscribe("connection-failed", self.on_failed)
        c.subscribe("disconnected", self.on_failed)
        c.register_handler(StanzaHandler(name="message", callback=self.take, priority=60))

    def on_connected(self, *_):
        self.c.send_stanza(Presence())
        self.connected = True
        wake()

    def on_failed(self, c, signal, *_):
        self.failed = "%s: %s" % (signal, c.get_error())
        wake()

    def take(self, _client, stanza, properties):
        if properties.is_mam_message:
            self.results.append((properties.mam.id, properties.mam.timestamp, properties.body))
        elif properties.is_carbon_message:
            self.heard.append((properties.carbon.type, properties.body))
        elif properties.body:
            self.heard.append(("direct", properties.body))
            assert [i for i in properties.stanza_ids if i.id], stanza
        wake()


# The steps run as a generator, which yields conditions. It goes on when one holds.
current = None


def wake():
    GLib.idle_add(advance)


def advance():
    global current
    try:
        while current is None or current():
            current = next(steps)
    except StopIteration:
        loop.quit()
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        loop.quit()
        globals()["failed"] = True
    return False


failed = False


def step(name):
    print(name, flush=True)


def same(got, want):
    assert got == want, "\n got %s\nwant %s" % (got, want)


class Answer:
    """The result of a task of the library, which drops it after the call."""

    def __init__(self):
        self.there, self.result, self.error = False, None, None

    def __call__(self, task):
        try:
            self.result = task.finish()
        except Exception as e:
            self.error = e
        self.there = True
        wake()

    def get(self):
        if self.error is not None:
            raise self.error
        return self.result


def ask(call, *args, **kwargs):
    a = Answer()
    call(*args, callback=a, **kwargs)
    yield lambda: a.there
    return a.get()


def pages(c, size, **fields):
    mam = c.c.get_module("MAM")
    c.results, after = [], None
    while True:
        before = len(c.results)
        data = yield from ask(mam.make_query, None, queryid="q", max_=size, after=after, **fields)
        if data.complete:
            return [r[2] for r in c.results]
        assert 0 < len(c.results) - before <= size, c.results
        same(data.rsm.last, c.results[-1][0])
        after = data.rsm.last


def hear(c, how, body):
    yield lambda: c.heard
    same(c.heard.pop(0), (how, body))


def run():
    romeo, orchard, juliet, garden = all_ = [Client(j, p) for j, p in (
        (ROMEO, rpw), (ROMEO, rpw), (JULIET, jpw), (JULIET, jpw))]
    for c in all_:  # one after another: the library gives a connection seven seconds
        c.c.connect()
        yield lambda: c.connected or c.failed
        same(c.failed, None)
    step("carbons")
    for c in (orchard, garden):
        iq, done = Iq("set"), []
        iq.setTag("enable", namespace="urn:xmpp:carbons:2")
        c.c.send_stanza(iq, callback=lambda _c, answer, *_: (done.append(answer), wake()))
        yield lambda: done
        assert done[0].getType() == "result", done
    want = []
    for i in range(10):
        a, a2, b, b2 = (romeo, orchard, juliet, garden) if i % 2 else (juliet, garden, romeo, orchard)
        want.append("line %d" % i)
        a.c.send_stanza(Message(to=str(b.c.get_bound_jid()), body=want[-1], typ="chat"))
        yield from hear(b, "direct", want[-1])
        yield from hear(b2, "received", want[-1])
        yield from hear(a2, "sent", want[-1])
    for c in (romeo, juliet):
        step("pages")
        same((yield from pages(c, 50)), want)
        same((yield from pages(c, 3)), want)
        # with_ is left out: the library of this version fails before it sends the query.
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.timezone.utc)
        same((yield from pages(c, 4, start=now - day, end=now + day)), want)
        same((yield from pages(c, 4, start=now + day)), [])
        same((yield from pages(c, 4, end=now - day)), [])
        yield from pages(c, 50)
        first = c.results[0][1]
        assert isinstance(first, float) and first > 1e9, first
    step("preferences")
    mam = juliet.c.get_module("MAM")
    yield from ask(mam.set_preferences, "never", [ROMEO], ["nurse@localhost"])
    got = yield from ask(mam.request_preferences)
    same((got.default, [str(j) for j in got.always], [str(j) for j in got.never]),
         ("never", [ROMEO], ["nurse@localhost"]))
    yield from ask(mam.set_preferences, "always", [], [])
    step("ok")


steps = run()
GLib.timeout_add_seconds(115, lambda: sys.exit("no end; the clients heard %s" % [
    c.heard for c in (steps.gi_frame.f_locals.get("all_") or [])]))
wake()
loop.run()
sys.stdout.flush()
sys.exit(1 if failed else 0)
