package offline

import (
	"canto/session"
	archivemod "canto/session/mod/archive"
	"canto/session/stanzaid"
	"canto/session/store"
)

// joinArchive tells module archive how rows that wait are deleted, by age or by size.
func (m *module) joinArchive(s *archivemod.Service) {
	s.Offline = archivemod.Offline{MaxRows: m.opt.MaxMessages, MaxBytes: m.opt.MaxBytes, Expired: m.expired,
		Replaying: func(a *session.Account) bool { return activeReplay(a) != nil }}
}

// expired moves the cursor of a behind rows that b deletes, all of the archive before first: of them rows
// have waited, with so many bytes. No replay runs. Under the lock of a.
func (m *module) expired(a *session.Account, b *store.Batch, first stanzaid.ID, rows, bytes int) {
	k := part.Get(a)
	if k == nil || k.count == 0 {
		return
	}
	m.counters.expired.Add(uint64(min(k.count, rows)))
	k.count, k.bytes = max(k.count-rows, 0), max(k.bytes-bytes, 0)
	if k.from != 0 {
		k.from = max(k.from, first)
	}
	if k.queued != 0 { // a replay passes over references to rows that are gone
		k.queued = max(k.queued, first)
	}
	if k.count == 0 {
		k.from, k.queued, k.bytes = 0, 0, 0
	}
	m.writeCursor(b, a, k)
}
