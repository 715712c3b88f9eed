package reactor

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Whatever operations a fairQueue gets in whatever order: no waiter is lost, waiters of one address
// come out first in first out, and none waits for more than its share of the work that is done
// meanwhile.
func TestFairQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type key struct {
			host uint32
			addr netip.Addr
		}
		var f fairQueue
		want := map[key][]*waiter{}
		served := map[key]int{} // of others, since the head of a key began to be it
		n := 0
		keys := func() key {
			return key{uint32(rapid.IntRange(1, 3).Draw(t, "host")),
				netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 4).Draw(t, "addr"))})}
		}
		take := func(k key, w *waiter) {
			i := 0
			for want[k][i] != w {
				i++
			}
			if i == 0 {
				served[k] = 0
			}
			if want[k] = append(want[k][:i:i], want[k][i+1:]...); len(want[k]) == 0 {
				delete(want, k)
				delete(served, k)
			}
			n--
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				k, w := keys(), &waiter{cost: LoginStepCost}
				f.push(k.host, k.addr, w)
				want[k] = append(want[k], w)
				n++
			},
			"next": func(t *rapid.T) {
				if n == 0 {
					return
				}
				w := f.pop()
				k := key{w.host, w.addr}
				if want[k][0] != w {
					t.Fatalf("%v: one that came later was taken first", k)
				}
				take(k, w)
				for other := range want {
					// Three hosts of four addresses, each with two steps of credit and debts of at most
					// forty: what is between two turns of one is bounded, however many the others are.
					if other != k {
						if served[other]++; served[other] > 3*4*2*45 {
							t.Fatalf("%v has waited for %d others", other, served[other])
						}
					}
				}
			},
			"remove": func(t *rapid.T) {
				if n == 0 {
					return
				}
				k := keys()
				if len(want[k]) == 0 {
					return
				}
				w := want[k][rapid.IntRange(0, len(want[k])-1).Draw(t, "which")]
				f.remove(w)
				take(k, w)
			},
			"charge": func(*rapid.T) {
				k := keys()
				f.charge(k.host, k.addr, rapid.IntRange(1, 3000).Draw(t, "cost"))
			},
			"": func(t *rapid.T) {
				hosts := map[uint32]int{}
				for k := range want {
					hosts[k.host]++
				}
				if f.size != n || len(f.hosts.nodes) != len(hosts) || (f.hosts.head == nil) != (n == 0) {
					t.Fatalf("%d wait in %d hosts; want %d in %d", f.size, len(f.hosts.nodes), n, len(hosts))
				}
				for h, addrs := range hosts {
					if got := len(f.hosts.nodes[h].value.addrs.nodes); got != addrs {
						t.Fatalf("host %d: %d addresses; want %d", h, got, addrs)
					}
				}
			},
		})
	})
}

// Shares are equal by host first and then by address, and they are measured in cost: an address
// with more expensive work comes less often.
func TestFairShares(t *testing.T) {
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	var f fairQueue
	for range 2000 {
		f.push(1, addr(1), &waiter{cost: LoginStepCost}) // crowds of a host
		f.push(1, addr(2), &waiter{cost: LoginStepCost})
		f.push(1, addr(2), &waiter{cost: LoginStepCost})
		f.push(2, addr(3), &waiter{cost: LoginStepCost}) // one of another
	}
	got := map[string]int{}
	for range 1200 {
		w := f.pop()
		got[fmt.Sprint(w.host, w.addr)]++
	}
	if a, b, c := got["1 192.0.2.1"], got["1 192.0.2.2"], got["2 192.0.2.3"]; a != 300 || b != 300 || c != 600 {
		t.Errorf("shares: %v", got)
	}
	clear(got)
	for range 1200 {
		w := f.pop()
		got[w.addr.String()]++
		if w.addr == addr(1) {
			f.charge(1, addr(1), 3*LoginStepCost) // four times as expensive
		}
	}
	if a, b := got["192.0.2.1"], got["192.0.2.2"]; a*4 < b-8 || a*4 > b+8 {
		t.Errorf("an address with steps of four times the cost: %v", got)
	}
}
