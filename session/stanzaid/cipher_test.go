package stanzaid

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// testCipher is a Cipher with a key of sevens.
func testCipher() *Cipher { return NewCipher(bytes.Repeat([]byte{7}, KeyLen)) }

// An id comes back from its text, for its own archive only; no other text of the same length stands for it.
func TestCipher(t *testing.T) {
	c := testCipher()
	rapid.Check(t, func(t *rapid.T) {
		id, owner := ID(rapid.Uint64().Draw(t, "id")), rapid.Uint64().Draw(t, "owner")
		text := c.Append(nil, owner, id)
		if len(text) != WireLen {
			t.Fatalf("%q has %d bytes", text, len(text))
		}
		if got, err := c.Parse(text, owner); err != nil || got != id {
			t.Fatalf("%q is %d, %v; want %d", text, got, err, id)
		}
		if _, err := c.Parse(text, owner+1); err != ErrText {
			t.Fatalf("%q is an id of another archive", text)
		}
		i := rapid.IntRange(0, WireLen-1).Draw(t, "place")
		text[i] = alphabet[(decodeTable[text[i]]+rapid.Uint8Range(1, 31).Draw(t, "change"))%32]
		if got, err := c.Parse(text, owner); err == nil {
			t.Fatalf("the changed text %q is id %d", text, got)
		}
	})
}

// Ids on the wire do not show which one is older: neither they nor their beginnings are in the order of ids.
func TestUnpredictable(t *testing.T) {
	c := testCipher()
	grown, heads := 0, map[string]bool{}
	last := ""
	for i := range ID(1000) {
		text := string(c.Append(nil, 1, 1<<60+i))
		if text > last {
			grown++
		}
		heads[text[:4]] = true
		last = text
	}
	if grown < 400 || grown > 600 || len(heads) < 900 {
		t.Errorf("%d of 1,000 ids are greater than the one before, and they have %d beginnings", grown, len(heads))
	}
}

// Texts that no server has made (attack P02).
func TestNoIDs(t *testing.T) {
	c := testCipher()
	for _, text := range []string{"", "1", "' or 1=1--", "\x00", strings.Repeat("0", 25),
		strings.Repeat("0", 27),
		strings.Repeat("0", 26), strings.Repeat("z", 26), strings.Repeat("é", 13), strings.Repeat("0", 1<<20),
		strings.ToUpper(string(c.Append(nil, 1, 99)))} {
		if id, err := c.Parse([]byte(text), 1); err != ErrText {
			t.Errorf("%.40q is id %d", text, id)
		}
	}
}

// An id is made for each archived message, in a buffer that is there.
func TestCipherAllocs(t *testing.T) {
	c, dst := testCipher(), make([]byte, 0, 128)
	if n := testing.AllocsPerRun(100, func() { dst = c.Append(dst[:0], 1, 2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Each id has one text, and what is none is refused (attack P02).
func FuzzCipherParse(f *testing.F) {
	c := testCipher()
	f.Add(string(c.Append(nil, 1, 99)))
	f.Add(strings.Repeat("z", WireLen))
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := c.Parse([]byte(text), 1); err == nil && string(c.Append(nil, 1, id)) != text {
			t.Errorf("%q is %d, and that %q", text, id, c.Append(nil, 1, id))
		}
	})
}
