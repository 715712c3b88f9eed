package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"canto/session"
	"canto/session/archive"
	"canto/session/handling"
	"canto/session/jid"
	archivemod "canto/session/mod/archive"
	"canto/session/mod/offline"
	"canto/session/mod/stanzaids"
	"canto/session/stanza"
	"canto/session/stanzaid"
	"canto/session/store"
	"canto/xmlstream"
)

// archiveCmd is `canto archive`.
type archiveCmd struct {
	Show archiveShow `cmd:"" help:"Show how large the archive of an account is, and what waits."`
	Trim archiveTrim `cmd:"" help:"Delete the oldest messages of an archive, but none that waits."`
}

// withArchive carries out a command that reads the archive of an account: see [run.withStore]. snap is a
// snapshot of db.
func (r *run) withArchive(account string, f func(db *store.DB, snap *store.Snapshot, j jid.JID,
	a store.Account) error) error {
	j, err := parseAccount(account)
	if err != nil {
		return err
	}
	return r.withStore(false, func(db *store.DB) error {
		s := db.Snapshot()
		defer s.Close()
		a, err := db.Accounts().Get(s, j.Domain(), j.Local())
		if err != nil {
			return accountError(j, err)
		}
		return f(db, s, j, a)
	})
}

// printJSON prints v as one line of JSON. The characters <, > and & are printed as they are.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// archiveShow is `canto archive show`.
type archiveShow struct {
	JID  string `arg:"" name:"jid" help:"The account: name@domain."`
	JSON bool   `name:"json" help:"Print one JSON object."`
}

// An archiveInfo is what `canto archive show` prints.
type archiveInfo struct {
	JID          string                 `json:"jid"`
	Rows         uint64                 `json:"rows"`   // archived messages
	Bytes        uint64                 `json:"bytes"`  // of them
	Oldest       *time.Time             `json:"oldest"` // when the oldest one came; null: the archive is empty
	Newest       *time.Time             `json:"newest"`
	Waiting      int                    `json:"waiting"`       // messages that wait for a device
	WaitingBytes int                    `json:"waiting_bytes"` // of them
	Preferences  archivemod.Preferences `json:"preferences"`
}

// Run prints the size of the archive, the ages of its ends, what waits, and the preferences.
func (c *archiveShow) Run(r *run) error {
	return r.withArchive(c.JID, func(db *store.DB, snap *store.Snapshot, j jid.JID, a store.Account) error {
		arc, err := archive.Open(db.Tables())
		if err != nil {
			return err
		}
		sum, err := arc.Load(snap, a.ID)
		if err != nil {
			return err
		}
		info := archiveInfo{JID: j.String(), Rows: sum.Count(), Bytes: sum.Bytes()}
		if sum.Last != 0 {
			for _, end := range []struct {
				id stanzaid.ID
				at **time.Time
			}{{sum.First, &info.Oldest}, {sum.Last, &info.Newest}} {
				row, _, err := arc.Get(snap, a.ID, end.id)
				if err != nil {
					return err
				}
				t := row.Time(end.id).UTC()
				*end.at = &t
			}
		}
		w, err := offline.StoredWaiting(db, snap, a.ID)
		if err != nil {
			return err
		}
		info.Waiting, info.WaitingBytes = w.Count, w.Bytes
		if info.Preferences, err = archivemod.StoredPreferences(db, snap, a.ID); err != nil {
			return err
		}
		if c.JSON {
			return printJSON(r.out, info)
		}
		p := info.Preferences
		fmt.Fprintf(r.out, "jid          %s\nmessages     %d\nbytes        %d\noldest       %s\nnewest       %s\n"+
			"waiting      %d, %d bytes\npreferences  %s, always %d addresses, never %d addresses\n", info.JID,
			info.Rows, info.Bytes, timeOrDash(info.Oldest), timeOrDash(info.Newest), info.Waiting,
			info.WaitingBytes, p.Policy, p.Always, p.Never)
		return nil
	})
}

// timeOrDash returns t as the commands print times, or a dash if there is none.
func timeOrDash(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.RFC3339)
}

// archiveTrim is `canto archive trim`.
type archiveTrim struct {
	JID    string  `arg:"" name:"jid" help:"The account: name@domain."`
	Before string  `help:"Delete messages that came before this day (UTC) or time: 2026-01-31, or 2026-01-31T12:00:00Z." placeholder:"DATE"`
	Keep   *uint64 `help:"Delete all but this number of messages." placeholder:"N"`
	JSON   bool    `name:"json" help:"Print one JSON object."`
}

// bound returns what the flags ask for.
func (c *archiveTrim) bound() (b archive.Bound, err error) {
	switch {
	case (c.Before == "") == (c.Keep == nil):
		return b, exitStatus{exitUsage, errors.New("give either --before DATE or --keep N")}
	case c.Keep == nil:
		t, err := time.Parse(time.DateOnly, c.Before)
		if err != nil {
			t, err = time.Parse(time.RFC3339, c.Before)
		}
		if err != nil {
			return b, exitStatus{exitUsage, fmt.Errorf("--before %q is no date: write it like 2026-01-31 or "+
				"2026-01-31T12:00:00Z", c.Before)}
		}
		b.Before = stanzaid.FirstAt(t)
	case *c.Keep == 0: // MaxRows 0 would be any number
		b.Before = math.MaxUint64
	default:
		b.MaxRows = *c.Keep
	}
	return b, nil
}

// Run deletes the oldest rows and prints how many. A running server does it under the account's lock;
// otherwise they are deleted in the store.
func (c *archiveTrim) Run(r *run) error {
	j, err := parseAccount(c.JID)
	if err != nil {
		return err
	}
	b, err := c.bound()
	if err != nil {
		return err
	}
	return r.withStore(true, func(db *store.DB) error {
		snap := db.Snapshot()
		defer snap.Close()
		a, err := db.Accounts().Get(snap, j.Domain(), j.Local())
		if err != nil {
			return accountError(j, err)
		}
		var rows uint64
		if r.server != nil {
			rows, err = r.trimOnServer(j, b)
		} else {
			var w offline.Waiting
			if w, err = offline.StoredWaiting(db, snap, a.ID); err == nil {
				b.Keep = w.Oldest
				rows, err = archivemod.TrimStored(r.ctx, db, a.ID, b)
			}
		}
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(r.out, struct {
				JID     string `json:"jid"`
				Deleted uint64 `json:"deleted"`
			}{j.String(), rows})
		}
		fmt.Fprintf(r.out, "%d messages deleted\n", rows)
		return nil
	})
}

// trimTimeout is how long a command waits for the loop and the workers of a busy server.
const trimTimeout = time.Minute

// trimOnServer trims the archive of the account j in the running server.
func (r *run) trimOnServer(j jid.JID, b archive.Bound) (uint64, error) {
	h, ok := r.server.Router.Table.Host(j.Domain())
	var service *archivemod.Service
	if ok {
		service, ok = session.Provided[*archivemod.Service](h.Profile())
	}
	if !ok {
		return 0, fmt.Errorf("%s: the running server has no archive at %s: load module archive there, or stop "+
			"the server first", j, j.Domain())
	}
	ctx, cancel := context.WithTimeout(r.ctx, trimTimeout)
	defer cancel()
	rows, err := service.TrimAccount(ctx, r.server.Router, h, j, b)
	switch {
	case errors.Is(err, archivemod.ErrNoAccount):
		return 0, accountError(j, fmt.Errorf("account %w", store.ErrNotFound))
	case errors.Is(err, archivemod.ErrTrimming), errors.Is(err, session.ErrBusy),
		errors.Is(err, context.DeadlineExceeded):
		return 0, fmt.Errorf("%s: %w: give the command again", j, err)
	case err != nil:
		return 0, fmt.Errorf("%s: %w", j, err)
	}
	return rows, nil
}

// messageCmd is `canto message`.
type messageCmd struct {
	JID  string `arg:"" name:"jid" help:"The account that has the message in its archive: name@domain."`
	ID   string `arg:"" name:"id" help:"The id of the message there, as its stanza-id or a page of the archive has it."`
	Text bool   `help:"Print the text of the message, too."`
	JSON bool   `name:"json" help:"Print one JSON object."`
}

// A messageInfo is what `canto message` prints.
type messageInfo struct {
	JID       string    `json:"jid"`       // whose archive it is
	ID        string    `json:"id"`        // of the message, as it is on the wire
	Time      time.Time `json:"time"`      // when it came
	Direction string    `json:"direction"` // sent, received, or self: from the account to itself
	With      string    `json:"with"`      // the other side
	// Kind is a kind of package handling, or retracted: the tombstone does not say what the message was.
	Kind string `json:"kind"`
	// Devices are the resources of the account that got it when it came, copies included. Of a message that
	// was sent the row does not have them.
	Devices []string `json:"devices"`
	Waited  bool     `json:"waited"` // no device had it when it came
	Waits   bool     `json:"waits"`  // it waits for a device now
	// Taken says which device has it since, of a message that waited; null: it has not waited, or still waits,
	// or a version of the server that did not store that has delivered it.
	Taken *takenInfo `json:"taken"`
	// PushDue: push services were to be told that it waits. None is if a device comes first, and a push may
	// fail.
	PushDue   bool    `json:"push_due"`
	Retracted bool    `json:"retracted"`
	Moved     bool    `json:"moved"`          // a version of the server without archives has stored it
	Size      int     `json:"size"`           // bytes of the stored element
	Text      *string `json:"text,omitempty"` // only with --text
}

// A takenInfo says which device has a message that waited.
type takenInfo struct {
	Device string `json:"device"`
	// Time is when the device had the last message of those that it got together.
	Time time.Time `json:"time"`
	// Archive: the device was not sent it, and reads it from the archive (XEP-0386).
	Archive bool `json:"archive"`
}

// Run prints what the row of one message says.
func (c *messageCmd) Run(r *run) error {
	return r.withArchive(c.JID, func(db *store.DB, snap *store.Snapshot, j jid.JID, a store.Account) error {
		id, row, err := findMessage(db, snap, j, a, c.ID)
		if err != nil {
			return err
		}
		info, err := describeMessage(row, j)
		if err != nil {
			return err
		}
		info.ID, info.Time = c.ID, row.Time(id).UTC()
		w, err := offline.StoredWaiting(db, snap, a.ID)
		if err == nil {
			info.Waits, err = w.Has(snap, a.ID, id, row)
		}
		if err == nil && info.Waited && !info.Waits {
			info.Taken, err = taken(db, snap, a.ID, id)
		}
		if err != nil {
			return err
		}
		if !c.Text {
			info.Text = nil
		}
		if c.JSON {
			return printJSON(r.out, info)
		}
		info.print(r.out)
		return nil
	})
}

// taken returns which device has the row id of the archive of owner, which has waited; nil if that is not
// known.
func taken(db *store.DB, snap *store.Snapshot, owner uint64, id stanzaid.ID) (*takenInfo, error) {
	arc, err := archive.Open(db.Tables())
	if err != nil {
		return nil, err
	}
	h, ok, err := arc.HandoverOf(snap, owner, id)
	if err != nil || !ok {
		return nil, err
	}
	return &takenInfo{strings.ToValidUTF8(h.Device, ""), h.At, h.Reads}, nil
}

// findMessage returns the row of the message whose id on the wire is text, in the archive of a. An error says
// why there is none.
func findMessage(db *store.DB, snap *store.Snapshot, j jid.JID, a store.Account, text string) (
	id stanzaid.ID, row archive.Row, err error) {
	arc, err := archive.Open(db.Tables())
	if err != nil {
		return 0, row, err
	}
	sum, err := arc.Load(snap, a.ID)
	if err != nil {
		return 0, row, err
	}
	if sum.Last == 0 {
		return 0, row, fmt.Errorf("%s: the archive is empty: canto archive show %s shows its preferences", j, j)
	}
	cipher, err := stanzaids.NewCipher(db) // there is a key, as there are rows
	if err != nil {
		return 0, row, err
	}
	if id, err = cipher.Parse([]byte(text), a.ID); err != nil {
		return 0, row, fmt.Errorf("%q is no id of the archive of %s: take the id of the stanza-id by='%s', or of "+
			"a result of the archive, as the other side has another id", text, j, j)
	}
	row, ok, err := arc.Get(snap, a.ID, id)
	switch {
	case err != nil:
		return 0, row, err
	case ok:
		return id, row, nil
	case id < sum.First:
		oldest, _, err := arc.Get(snap, a.ID, sum.First)
		if err != nil {
			return 0, row, err
		}
		return 0, row, fmt.Errorf("%s: the message of %s was deleted, as it is older than the oldest one, "+
			"which came at %s: module.archive.retention and its limits say what stays", j, id.Time().UTC().Format(
			time.RFC3339), oldest.Time(sum.First).UTC().Format(time.RFC3339))
	}
	return 0, row, fmt.Errorf("%s: the message of %s is not stored: it was refused, or is being written: "+
		"give the command again", j, id.Time().UTC().Format(time.RFC3339))
}

// describeMessage returns what row says of the message, but for its id. j is the account that has it.
func describeMessage(row archive.Row, j jid.JID) (*messageInfo, error) {
	e, err := xmlstream.Parse(row.Element)
	if err != nil {
		return nil, fmt.Errorf("%s: the stored message is damaged: %w", j, err)
	}
	has := func(f archive.Flags) bool { return row.Flags&f != 0 }
	info := &messageInfo{JID: j.String(), Direction: "received", With: row.With, Devices: []string{},
		Waited: has(archive.Waiting), PushDue: has(archive.PushDue), Retracted: has(archive.Retracted),
		Moved: has(archive.Moved), Size: len(row.Element)}
	switch {
	case has(archive.Sent) && row.With == j.String():
		info.Direction = "self"
	case has(archive.Sent):
		info.Direction = "sent"
	}
	for _, d := range row.DeviceNames() { // a long name is cut, in a character perhaps
		info.Devices = append(info.Devices, strings.ToValidUTF8(d, ""))
	}
	info.Kind = "retracted"
	if !info.Retracted {
		typ, _ := e.Attr(stanza.AttrType)
		info.Kind = handling.Of(stanza.ParseType(stanza.Message, typ), e).Kind.String()
	}
	text := ""
	if b, ok := e.Child(stanza.BodyName); ok {
		text = string(b.Text())
	}
	info.Text = &text
	return info, nil
}

// print prints m, a field on each line.
func (m *messageInfo) print(out io.Writer) {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	waiting := "no"
	switch {
	case m.Waits:
		waiting = "yes"
	case m.Taken != nil && m.Taken.Archive:
		waiting = fmt.Sprintf("no longer, %s reads it from the archive since %s", m.Taken.Device,
			m.Taken.Time.Format(time.RFC3339))
	case m.Taken != nil:
		waiting = fmt.Sprintf("no longer, %s had it by %s", m.Taken.Device, m.Taken.Time.Format(time.RFC3339))
	case m.Waited:
		waiting = "no longer, a device has it"
	}
	fmt.Fprintf(out, "jid        %s\nid         %s\ntime       %s\ndirection  %s\nwith       %s\n"+
		"kind       %s\n", m.JID, m.ID, m.Time.Format("2006-01-02T15:04:05.000Z07:00"), m.Direction, m.With, m.Kind)
	switch {
	case len(m.Devices) > 0:
		for _, d := range m.Devices {
			fmt.Fprintf(out, "device     %s\n", d)
		}
	case m.Direction != "sent":
		fmt.Fprintf(out, "device     -\n")
	}
	fmt.Fprintf(out, "waiting    %s\npush due   %s\nretracted  %s\nmoved      %s\nsize       %d\n", waiting,
		yes(m.PushDue), yes(m.Retracted), yes(m.Moved), m.Size)
	if m.Text != nil {
		fmt.Fprintf(out, "text       %q\n", *m.Text) // quoted, so that it is one line and moves no cursor
	}
}
