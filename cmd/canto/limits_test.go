package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"canto/session/store"
)

// Every connection there may be has a descriptor, and the store, outgoing streams and HTTP keep theirs.
func TestDescriptors(t *testing.T) {
	for _, x := range []struct {
		limit      uint64
		configured int
		want       int
		ok         bool
		says       string
	}{
		{110_000, 0, 108_972, true, "110000 descriptors - 600 store - 200 outgoing - 100 http - 128 = 108972 connections"},
		{1 << 20, 5000, 5000, true, "of which limits.connections allows 5000"},
		{4096, 5000, 3068, false, "= 3068 connections, not the 5000 of limits.connections: set LimitNOFILE=6028"},
		{6028, 5000, 5000, true, "= 5000 connections"},
		{4096, 0, 3068, false, "= 3068 connections"},
		{1024, 0, 16, false, "= -4 connections"},
		{1 << 63, 0, 1<<30 - 1028, true, ""},
	} {
		if n := connectionCap(x.limit, x.configured); n != x.want {
			t.Errorf("%d descriptors, %d configured: %d connections, not %d", x.limit, x.configured, n, x.want)
		}
		sayConnections(x.limit, x.configured, func(ok bool, format string, a ...any) {
			if s := fmt.Sprintf(format, a...); ok != x.ok || !strings.Contains(s, x.says) {
				t.Errorf("%d descriptors, %d configured: %v %s", x.limit, x.configured, ok, s)
			}
		})
	}
}

// What is kept for the store is enough for the tables it holds open.
func TestStoreDescriptors(t *testing.T) {
	dir := t.TempDir()
	before := openFiles(t)
	db, err := store.Open(store.Options{Dir: filepath.Join(dir, "data"), MinFree: -1, Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if own := openFiles(t) - before; own+500 > fdStore {
		t.Errorf("an empty store has %d files open, and up to 500 tables more: %d is too little", own, fdStore)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// canto check limits prints the arithmetic.
func TestCheckLimits(t *testing.T) {
	var out, errOut bytes.Buffer
	execute(&run{ctx: t.Context(), args: []string{"check", "limits", "--data", t.TempDir()}, stdin: strings.NewReader(""), out: &out, errOut: &errOut})
	want := fmt.Sprintf("%d descriptors - %d store - %d outgoing - %d http - %d = ", descriptorLimit(), fdStore, fdOutgoing, fdHTTP, fdRest)
	if !strings.Contains(out.String(), want) {
		t.Errorf("no %q in %q", want, out.String())
	}
}
