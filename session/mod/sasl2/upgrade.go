package sasl2

import (
	"context"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod/saslauth"
	"canto/session/sasl"
	"canto/xmlstream"
)

// This file has the upgrades of XEP-0480: a client that has proved the password by SCRAM gives the server the
// keys of other hash functions, which the server can't make itself.
//
//	C: <authenticate … mechanism='SCRAM-SHA-1'>
//	     <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>…
//	S: <continue …><additional-data>dj1…</additional-data>
//	     <tasks><task>UPGR-SCRAM-SHA-256</task></tasks></continue>
//	C: <next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-256'/>
//	S: <task-data …><salt xmlns='urn:xmpp:scram-upgrade:0' iterations='10000'>QV9T…</salt></task-data>
//	C: <task-data …><hash xmlns='urn:xmpp:scram-upgrade:0'>BzOn…</hash></task-data>
//	S: <success …>
//
// There is a task for each key that the client asks for and the account does not have. A login by a token has
// none: with it a client that has stolen a token could set a password of its own (attack K74). Neither has
// PLAIN, by which the server knows the password. The inline requests are handled after the last task.

// nsUpgrade is the namespace of upgrades, nsScramUpgrade that of the data of SCRAM's.
const (
	nsUpgrade      = "urn:xmpp:sasl:upgrade:0"
	nsScramUpgrade = "urn:xmpp:scram-upgrade:0"
)

var (
	upgradeName  = xmlstream.N(nsUpgrade, "upgrade")
	continueName = xmlstream.N(ns, "continue")
	tasksName    = xmlstream.N(ns, "tasks")
	taskName     = xmlstream.N(ns, "task")
	nextName     = xmlstream.N(ns, "next")
	taskDataName = xmlstream.N(ns, "task-data")
	saltName     = xmlstream.N(nsScramUpgrade, "salt")
	hashName     = xmlstream.N(nsScramUpgrade, "hash")
	attrTask     = xmlstream.N("", "task")
	attrRounds   = xmlstream.N("", "iterations")
)

// upgrades returns the hash functions of the mechanisms in set for which there are tasks, the best first.
func upgrades(set sasl.MechanismSet) (list []sasl.Hash) {
	for _, h := range sasl.Upgrades {
		if set.Has(h.Scram()) {
			list = append(list, h)
		}
	}
	return list
}

// offerUpgrades writes the tasks that there are. They are the same for each account.
func offerUpgrades(set sasl.MechanismSet, a *xmlstream.Appender) {
	for _, h := range upgrades(set) {
		a.Open(upgradeName).Text(sasl.UpgradeName(h)).Close()
	}
}

// readUpgrades returns the hash functions of the tasks that the client asks for, of those that it was
// offered.
func readUpgrades(e xmlstream.Element, set sasl.MechanismSet) (list []sasl.Hash) {
	asked := make(map[sasl.Hash]bool)
	n := 0
	for c, ok := e.First(); ok && n < session.MaxInline; c, ok = c.Next() {
		n++
		if !c.Is(upgradeName) {
			continue
		}
		if h, ok := sasl.ParseUpgrade(string(c.Text())); ok {
			asked[h] = true
		}
	}
	for _, h := range upgrades(set) {
		if asked[h] {
			list = append(list, h)
		}
	}
	return list
}

// A task is the state of a stream between the proof of the password and the success, while keys are missing.
type task struct {
	l       *login
	r       saslauth.Result
	keys    sasl.Keys // the account's
	missing []sasl.Hash
	upgrade sasl.Upgrade // of missing[0], once the client has begun it
}

// taskOf returns the task of st, or nil.
func taskOf(st session.Negotiation) *task {
	t, _ := st.Exchange().(*task)
	return t
}

// beginTasks begins the first task of a login that has proved the password. It returns false if there is
// none.
func (l *login) beginTasks(st session.Negotiation, r saslauth.Result) bool {
	if r.Mechanism.Hash() == 0 || len(l.upgrades) == 0 {
		return false
	}
	keys, err := sasl.DecodeKeys(r.Credentials, 0)
	if err != nil {
		return false
	}
	t := &task{l: l, r: r, keys: keys}
	for _, h := range l.upgrades {
		if _, has := keys.For(h); !has {
			t.missing = append(t.missing, h)
		}
	}
	if len(t.missing) == 0 {
		return false
	}
	t.ask(st, r.Data)
	t.r.Data = nil
	return true
}

// ask sends the <continue/> for the next task. data is the additional data of the mechanism, for the first
// one.
func (t *task) ask(st session.Negotiation, data []byte) {
	st.SetExchange(t)
	t.upgrade = sasl.Upgrade{}
	a := st.LoopRouter().Appender()
	a.Open(continueName)
	if len(data) > 0 {
		a.Open(additionalName).TextBytes(data).Close()
	}
	a.Open(tasksName).Open(taskName).Text(sasl.UpgradeName(t.missing[0])).Close().Close().Close()
	st.Send(a.B)
}

// handle handles an element of the client while t waits for it. An element out of turn ends the stream.
func (t *task) handle(st session.Negotiation, e xmlstream.Element) {
	switch begun := t.upgrade.Hash != 0; {
	case e.Is(abortName):
		t.fail(st, sasl.Aborted)
	case e.Is(nextName) && !begun:
		t.begin(st, e)
	case e.Is(taskDataName) && begun:
		t.finish(st, e)
	default:
		st.Close(session.ErrPolicyViolation)
	}
}

// fail ends the login; it counts as a failed try.
func (t *task) fail(st session.Negotiation, c sasl.Condition) {
	st.SetExchange(nil)
	t.l.m.auth.Refuse(st, t.l, jid.JID{}, c, false)
}

// begin sends the salt for the task that the client has chosen: there is only one to choose.
func (t *task) begin(st session.Negotiation, e xmlstream.Element) {
	if name, _ := e.Attr(attrTask); string(name) != sasl.UpgradeName(t.missing[0]) {
		t.fail(st, sasl.MalformedRequest)
		return
	}
	u, err := sasl.NewUpgrade(t.missing[0], t.l.m.auth.Policy().Rand)
	if err != nil {
		t.fail(st, sasl.TemporaryAuthFailure)
		return
	}
	t.upgrade = u
	a := st.LoopRouter().Appender()
	a.Open(taskDataName).Open(saltName).Attr(attrRounds, u.Rounds()).TextBytes(u.SaltText()).Close().Close()
	st.Send(a.B)
}

// finish takes the key, stores it on a worker, and goes on with the next task or the success. If the key
// can't be stored, or the account has another password by now, the login goes on without it.
func (t *task) finish(st session.Negotiation, e xmlstream.Element) {
	h, _ := e.Child(hashName)
	if h.IsZero() {
		t.fail(st, sasl.MalformedRequest)
		return
	}
	key, err := t.upgrade.Key(h.Text())
	if err != nil {
		t.fail(st, sasl.IncorrectEncoding)
		return
	}
	keys := append(t.keys[:len(t.keys):len(t.keys)], key)
	text, auth := keys.Encode(), t.l.m.auth
	done := false
	then := func(err error) {
		if err != nil {
			st.LoopRouter().Log.Warn("an account gets no key of another hash: it could not be stored",
				"jid", t.r.User.String(), "err", err)
		}
		if done {
			t.keys, t.r.Credentials = keys, text
		}
		if t.missing = t.missing[1:]; len(t.missing) > 0 && done {
			t.ask(st, nil)
			return
		}
		st.SetExchange(nil)
		t.l.succeed(st, t.r)
	}
	if !st.Await(reactor.Disk, func() (err error) {
		done, err = auth.AddKey(context.Background(), t.r, text)
		return err
	}, then) {
		then(session.ErrBusy)
	}
}
