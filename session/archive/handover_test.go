package archive

import (
	"strings"
	"testing"
	"time"

	"canto/session/stanzaid"
)

// A row is covered by the newest handover that begins before it and reaches to it. A handover that grows is
// one row. Those of rows that are deleted go.
func TestHandovers(t *testing.T) {
	db, arc := openStore(t)
	const owner = 7
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 5e6, time.UTC)
	b := db.NewBatch(owner)
	for _, h := range []struct {
		first, last stanzaid.ID
		device      string
	}{{10, 12, "desk"}, {10, 50, "desk"}, {30, 30, "phone"}, {60, 70, strings.Repeat("x", 100)}} {
		arc.HandOver(b, owner, h.first, Handover{Last: h.last, At: t0.Add(time.Duration(h.last) * time.Second),
			Device: h.device, Reads: h.device == "phone"})
	}
	sum := Summary{}
	for id := stanzaid.ID(1); id <= 80; id++ {
		arc.Append(b, owner, &sum, id, Row{With: "a@b", Element: []byte("<message/>")})
	}
	if err := db.Wait(t.Context(), db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	check := func(want map[stanzaid.ID]string) {
		t.Helper()
		for id, device := range want {
			h, ok, err := arc.HandoverOf(db, owner, id)
			if err != nil || ok != (device != "") || h.Device != device || ok && (!h.At.Equal(
				t0.Add(time.Duration(h.Last)*time.Second)) || h.Reads != (device == "phone")) {
				t.Errorf("row %d: %+v, %v, %v; want %q", id, h, ok, err, device)
			}
		}
		if h, ok, err := arc.HandoverOf(db, owner+1, 30); ok || err != nil || h != (Handover{}) {
			t.Errorf("of another owner: %+v, %v, %v", h, ok, err)
		}
	}
	long := strings.Repeat("x", maxDevice)
	check(map[stanzaid.ID]string{9: "", 10: "desk", 13: "desk", 29: "desk", 30: "phone", 31: "desk", 50: "desk",
		51: "", 60: long, 70: long, 71: ""})
	b = db.NewBatch(owner)
	first, row, err := arc.Find(db, owner, sum, Bound{Before: 40})
	if err != nil || arc.Trim(b, owner, &sum, first, row) != 39 {
		t.Fatal(first, err)
	}
	if err := db.Wait(t.Context(), db.Commit(b)); err != nil {
		t.Fatal(err)
	}
	check(map[stanzaid.ID]string{10: "", 30: "", 50: "", 60: long})
}
