package archive_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"canto/session/mod"
	"canto/session/mod/offline"
	"canto/session/sessiontest"
)

// A message for which there is no space is refused, and is in the archive of its sender alone (XEP-0313
// section 6.1; attack K62).
func TestRefusedByLimit(t *testing.T) {
	s := free(t, sessiontest.Options{Module: func(_ string, v any) error {
		if o, ok := v.(*offline.Options); ok {
			o.MaxMessages = 3
		}
		return nil
	}})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	s.AddAccount("juliet@localhost")
	for i := range 5 {
		romeo.Send(chat("juliet@localhost", fmt.Sprint("m", i), fmt.Sprint("m", i)))
	}
	s.Settle()
	refused := refusedIDs(romeo.Stanzas())
	if len(refused) != 2 || !refused["m3"] || !refused["m4"] {
		t.Errorf("refused are %v", refused)
	}
	_, bodies := everything(t, s, romeo)
	equal(t, "the sender's archive", bodies, messages(5))
	juliet := s.Login("juliet", "juliet@localhost/balcony")
	_, bodies = everything(t, s, juliet)
	equal(t, "the recipient's archive", bodies, messages(3))
	juliet.Send("<presence/>")
	s.Settle()
	_, live := readPage(t, "x", append(juliet.Stanzas(), "<iq id='x' id='x'/>"))
	equal(t, "delivered", live, messages(3))
}

// What a device had not got when its session ended is routed again, to the other device, with the same id.
// The archive has it once, and each other device has it once, also if it has a copy already.
func TestRoutedAgain(t *testing.T) {
	for _, copies := range []bool{false, true} {
		t.Run(fmt.Sprint("copies=", copies), func(t *testing.T) { routedAgain(t, copies) })
	}
}

// routedAgain is [TestRoutedAgain].
func routedAgain(t *testing.T, copies bool) {
	const n, enable = 14, "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
	s := free(t, sessiontest.Options{Modules: slices.DeleteFunc(mod.DefaultNames(), func(m string) bool {
		return m == "offline"
	})})
	romeo := s.Login("romeo", "romeo@localhost/orchard")
	desk := s.Login("desk", "juliet@localhost/desk")
	desk.Send("<presence><priority>5</priority></presence>")
	phone := s.Login("phone", "juliet@localhost/phone")
	phone.Send("<presence/>")
	if copies {
		phone.Send(enable)
	}
	tablet := s.Login("tablet", "juliet@localhost/tablet") // it gets copies alone, or asks for them too late
	if copies {
		tablet.Send(enable)
	}
	s.Settle()
	phone.Stanzas()
	desk.Conn().SetWindow(0)
	pad := "<x xmlns='urn:example:pad'>" + strings.Repeat("x", 200_000) + "</x>"
	for i := range n {
		romeo.Send(fmt.Sprintf("<message to='juliet@localhost' type='chat'><body>m%d</body>%s</message>", i, pad))
		s.Settle()
	}
	if !copies {
		tablet.Send(enable)
		s.Settle()
	}
	desk.DropConn()
	s.Settle()
	if got := romeo.Received(); got != "" {
		t.Errorf("refused: %.300s", got)
	}
	var live, ids []string
	for _, el := range phone.Stanzas() {
		if text := match(bodyText, el); text != "" {
			live, ids = append(live, text), append(ids, match(stanzaID, el))
		}
	}
	if copies {
		equal(t, "on the phone", live, messages(n))
	} else if len(live) == 0 {
		t.Error("nothing was routed again")
	}
	_, copied := readPage(t, "c", tablet.Stanzas())
	if copies {
		equal(t, "copies", copied, messages(n))
	} else {
		equal(t, "copies", copied, nil)
	}
	archived, bodies := everything(t, s, phone)
	equal(t, "in the archive", bodies, messages(n))
	rows := counter(s, "rows_total", "")
	if p := query(t, s, phone, set("<max>1</max>")); p.count != fmt.Sprint(n) || rows != 2*n {
		t.Errorf("%s rows in the archive, and %d were written", p.count, rows)
	}
	for i, text := range live {
		if at := slices.Index(bodies, text); at >= 0 && archived[at] != ids[i] {
			t.Errorf("%s came with the id %s, and is archived with %s", text, ids[i], archived[at])
		}
	}
}
