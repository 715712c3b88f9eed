package session_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"canto/reactor"
	"canto/session"
	"canto/session/jid"
	"canto/session/mod"
	"canto/session/sessiontest"
	"canto/session/sessiontest/acks"
	"canto/session/storage"
	"canto/xmlstream"
)

// panickyUnload is a module whose Unload panics.
type panickyUnload struct{ hooked }

func (panickyUnload) Unload() error { panic("for the test") }

// handles adds a stream feature that a client uses with the element name.
func handles(name xmlstream.Name, f func(st session.Negotiation, rage func())) func(h *session.Hooks,
	_ string, rage func()) {
	return func(h *session.Hooks, _ string, rage func()) {
		h.Features = append(h.Features, session.StreamFeature{Name: name, Needs: session.HasResource,
			Handle: func(st session.Negotiation, _ xmlstream.Element) { f(st, rage) }})
	}
}

// triggers uses that feature.
func triggers(_ *sessiontest.Server, juliet *sessiontest.Client) {
	juliet.Send("<trigger xmlns='urn:of-the-test'/>")
}

// nothing is a work that does nothing.
func nothing() error { return nil }

// A panic, once, in a hook for streams and sessions costs the smallest thing: it is counted once,
// a client that waits for an answer gets one, or the stream error internal-server-error (RFC 6120
// Section 4.9.3.6), and another client of the same loop and account goes on. (Hooks for stanzas, sources
// and kinds have tests of their own.)
func TestPanicInHook(t *testing.T) {
	trigger := xmlstream.N("urn:of-the-test", "trigger")
	const internal = "internal-server-error"
	for name, c := range map[string]struct {
		add func(h *session.Hooks, module string, rage func())
		// juliet has an acknowledged stream, and is kept at rest
		do   func(s *sessiontest.Server, juliet *sessiontest.Client)
		told string // what comes to juliet
		gone bool   // her session ends
	}{
		"Bound": {gone: true, add: func(h *session.Hooks, module string, rage func()) {
			h.Bound.Add(module, session.Deliver, func(*session.LoopRouter, *session.Session) { rage() })
		}},
		"Available": {told: internal, add: func(h *session.Hooks, module string, rage func()) {
			h.Available.Add(module, session.Deliver, func(*session.LoopRouter, *session.Session) { rage() })
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) { juliet.Send("<presence/>") }},
		"Rest": {gone: true, add: func(h *session.Hooks, module string, rage func()) {
			h.Hibernate.Add(module, session.Guard, func(*session.LoopRouter, *session.Session) session.Verdict {
				rage()
				return session.Pass
			})
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) { juliet.DropConn() }},
		"Rested": {gone: true, add: func(h *session.Hooks, module string, rage func()) {
			h.Hibernated.Add(module, session.Guard, func(*session.LoopRouter, *session.Session) { rage() })
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) { juliet.DropConn() }},
		"Unbound": {gone: true, add: func(h *session.Hooks, module string, rage func()) {
			h.Unbound.Add(module, session.Guard, func(*session.LoopRouter, *session.Session) { rage() })
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) { juliet.Send("</stream:stream>") }},
		"Unsent": {gone: true, add: func(h *session.Hooks, module string, rage func()) {
			h.Unsent.Add(module, session.Guard, func(_ *session.LoopRouter, _ *session.Session,
				list []session.OutboundStanza) []session.OutboundStanza {
				rage()
				return list
			})
		}, do: func(s *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.DropConn()
			s.Settle()
			s.Client("romeo").Send(message(juliet.JID, "unsent"))
			s.Router.Kick(juliet.Bare(), session.ErrPolicyViolation)
		}},
		"Settled": {told: internal, add: func(h *session.Hooks, module string, rage func()) {
			h.Settled.Add(module, session.Guard, func(*session.Stream, uint32, int) { rage() })
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.Send(message("romeo@localhost/x", "Hi"))
		}},
		"StreamFeature.Handle": {told: internal, add: func(h *session.Hooks, _ string, rage func()) {
			h.Features = append(h.Features, session.StreamFeature{Name: trigger, Needs: session.HasResource,
				Handle: func(session.Negotiation, xmlstream.Element) {
					rage()
				}})
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.Send("<trigger xmlns='urn:of-the-test'/>")
		}},
		"StreamFeature.Handle, Await": {told: internal,
			add: handles(trigger, func(st session.Negotiation, rage func()) {
				st.Await(reactor.Disk, nothing, func(error) { rage() })
			}), do: triggers},
		"StreamFeature.Handle, AwaitTurn": {told: internal,
			add: handles(trigger, func(st session.Negotiation, rage func()) {
				st.AwaitAdmission(reactor.Crypto, 10, nothing, func(error) { rage() })
			}), do: triggers},
		"StreamFeature.Handle, Delay": {told: internal,
			add: handles(trigger, func(st session.Negotiation, rage func()) {
				st.Delay(1, rage)
			}), do: triggers},
		"StreamFeature.Available": {told: internal, add: func(h *session.Hooks, _ string, rage func()) {
			h.Features = append(h.Features, session.StreamFeature{Name: trigger, Needs: session.HasResource,
				Available: func(session.Negotiation) bool {
					rage()
					return true
				}, Handle: func(session.Negotiation, xmlstream.Element) {}})
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.Send("<trigger xmlns='urn:of-the-test'/>")
		}},
		"StreamFeature.Offer": {add: func(h *session.Hooks, _ string, rage func()) {
			h.Features = append(h.Features,
				session.StreamFeature{Name: trigger, Offer: func(session.Negotiation, *xmlstream.Appender) {
					rage()
				}})
		}, do: func(s *sessiontest.Server, _ *sessiontest.Client) {
			late := s.Dial("late", 1)
			late.Open("localhost")
			if got := late.Received(); !strings.Contains(got, internal) || !late.Conn().Ended() {
				s.TB.Errorf("the one that opens got %q", got)
			}
		}},
		"Refuses, of what is stored": {told: ">stored<", add: func(h *session.Hooks, _ string, rage func()) {
			h.Blocked = append(h.Blocked, func(*session.Account, jid.JID) bool { rage(); return false })
		}, do: func(s *sessiontest.Server, juliet *sessiontest.Client) {
			s.Client("romeo").Send(message("juliet@localhost", "stored"))
			s.Settle()
			juliet.Send("<presence/>")
		}},
		"Refuses": {add: func(h *session.Hooks, _ string, rage func()) {
			h.Blocked = append(h.Blocked, func(*session.Account, jid.JID) bool { rage(); return false })
		}, do: func(s *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.DropConn()
			s.Settle()
			s.Client("romeo").Send(message(juliet.JID, "waits"))
			next := s.Authenticate("next", "juliet@localhost", 1)
			next.Send(resume("x"))
			s.Settle()
			if got := s.Client("romeo").Received(); !strings.Contains(got, internal) {
				s.TB.Errorf("the sender of what was held back got %q", got)
			}
		}},
		"Remote": {told: internal, add: func(h *session.Hooks, module string, rage func()) {
			h.Remote.Add(module, session.Deliver, func(*session.Stanza) session.Verdict {
				rage()
				return session.Pass
			})
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.Send(message("romeo@elsewhere.example", "Hi"))
		}},
		"Absent": {told: internal, add: func(h *session.Hooks, module string, rage func()) {
			h.Absent.Add(module, session.Deliver, func(*session.Stanza) session.Verdict {
				rage()
				return session.Pass
			})
		}, do: func(_ *sessiontest.Server, juliet *sessiontest.Client) {
			juliet.Send("<iq type='get' id='q' to='none@localhost'><query xmlns='jabber:iq:last'/></iq>")
		}},
		"Deleted": {gone: true, add: func(h *session.Hooks, module string, rage func()) {
			h.Deleted.Add(module, session.Deliver, func(*session.LoopRouter, *session.Account, func(jid.JID, []byte)) {
				rage()
			})
		}, do: func(s *sessiontest.Server, _ *sessiontest.Client) {
			gone, err := s.DB.Accounts().Delete(s.TB.Context(), "localhost", "juliet")
			if err = errors.Join(err, storage.FinishDeletion(s.Router, s.DB, gone, nil)); err != nil {
				s.TB.Fatal(err)
			}
			for range 30 { // it is started again
				s.Advance(time.Second)
				s.Settle()
			}
			s.AddAccount("juliet@localhost")
		}},
		"Unload": {add: func(*session.Hooks, string, func()) {},
			do: func(s *sessiontest.Server, _ *sessiontest.Client) {
				host, _ := s.Router.Table.Host("localhost")
				p, err := s.NewProfile()
				if err != nil {
					s.TB.Fatal(err)
				}
				old := host.Profile()
				host.SwapProfile(p)
				s.Router.RetireProfile(old, func(e error) { err = e })
				s.Advance(2 * time.Second)
				if err == nil || !strings.Contains(err.Error(), "for the test") {
					s.TB.Errorf("Retire said %v", err)
				}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			armed := false
			load := hooked(func(api *session.API) error {
				c.add(api.Hooks, api.Module, func() {
					if armed {
						armed = false
						panic("for the test")
					}
				})
				return nil
			})
			opt := sessiontest.Options{AllowPanics: true, Modules: append(mod.DefaultNames(), acks.Manifest.Name,
				"of-the-test")}
			opt.Shelf = append([]session.Manifest{acks.Manifest, {Name: "of-the-test", Spec: "a test",
				New: func() session.Module {
					if name == "Unload" {
						return panickyUnload{load}
					}
					return load
				}}}, mod.All...)
			s := sessiontest.New(t, opt)
			other, romeo := s.Login("other", "juliet@localhost/other"), s.Login("romeo", "romeo@localhost/x")
			juliet := other
			if c.do == nil { // it panics as she logs in
				armed = true
				juliet = s.Authenticate("juliet", "juliet@localhost", 1)
				juliet.Send("<iq type='set' id='bind'><bind " +
					"xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind></iq>")
				s.Settle()
				if got := juliet.Received(); !strings.Contains(got, internal) || !juliet.Conn().Ended() {
					t.Errorf("the one that binds got %q", got)
				}
				juliet.JID = "juliet@localhost/x"
			} else {
				juliet = s.Login("juliet", "juliet@localhost/x")
				juliet.Send("<on xmlns='" + nsAcks + "'/>")
				s.Settle()
				juliet.Received()
				armed = name != "Unload"
				c.do(s, juliet)
			}
			s.Settle()
			s.Advance(6 * time.Second)
			s.Settle()
			if got := juliet.Received(); !strings.Contains(got, c.told) {
				t.Errorf("juliet got %q", got)
			}
			panics := uint64(0)
			for _, l := range s.Router.LoopRouters() {
				panics += l.Stats().Panics
			}
			if panics != 1 || armed {
				t.Errorf("%d panics are counted; it is still to come: %v", panics, armed)
			}
			full, _ := jid.Parse(juliet.JID)
			if a, ok := s.Router.Table.LookupAccount(full.Bare()); c.gone && ok && a.Resource(full) != nil {
				t.Error("her session is still there")
			}
			if name != "Deleted" {
				romeo.Received()
				other.Send(message(romeo.JID, "the other goes on"))
				s.Settle()
				romeo.Send(message(other.JID, "romeo goes on"))
				s.Settle()
				got := other.Received()
				if name == "Unsent" {
					other.Send("<presence/>")
					s.Settle()
				} else if !strings.Contains(got, "romeo goes on") {
					t.Errorf("the other resource of the account got %q", got)
				}
			}
			works(t, s)
		})
	}
}
