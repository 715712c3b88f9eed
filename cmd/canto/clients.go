package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"canto/session"
	"canto/session/jid"
	"canto/session/mod/fast"
	"canto/session/store"
)

// userClients is `canto user clients`.
type userClients struct {
	JID    string `arg:"" name:"jid" help:"The account: name@domain."`
	Revoke string `help:"End the sessions of the client with this id, and delete its tokens." placeholder:"ID"`
	JSON   bool   `name:"json" help:"Print one JSON array."`
}

// Run prints a line for each client that has logged in with SASL2 and an id: the id, its software and device
// as it describes them, the last login, and its tokens. With Revoke it erases one client first, and ends its
// sessions.
func (u *userClients) Run(r *run) error {
	j, err := parseAccount(u.JID)
	if err != nil {
		return err
	}
	var id session.AgentID
	if u.Revoke != "" {
		if id, err = session.ParseAgentID([]byte(u.Revoke)); err != nil {
			return exitStatus{exitUsage, fmt.Errorf("%q is no id of a client: canto user clients %s shows them",
				u.Revoke, j)}
		}
	}
	return r.withStore(u.Revoke != "", func(db *store.DB) error {
		a, err := db.Accounts().Get(db, j.Domain(), j.Local())
		if err != nil {
			return accountError(j, err)
		}
		if u.Revoke != "" {
			if err := r.revokeClient(db, j, a.ID, id); err != nil {
				return err
			}
		}
		s := db.Snapshot()
		defer s.Close()
		list, err := fast.List(db, s, a, time.Now())
		if err != nil {
			return err
		}
		if u.JSON {
			if list == nil {
				list = []fast.Client{}
			}
			return json.NewEncoder(r.out).Encode(list)
		}
		for _, c := range list {
			var tokens []string
			for _, t := range c.Tokens {
				tokens = append(tokens, t.Mechanism+" until "+t.Expires.Format(time.RFC3339))
			}
			fmt.Fprintf(r.out, "%s\t%s\t%s\t%s\t%s\n", c.ID, cmp.Or(c.Software, "-"), cmp.Or(c.Device, "-"),
				c.Seen.Format(time.RFC3339), cmp.Or(strings.Join(tokens, ", "), "no token"))
		}
		return nil
	})
}

// revokeClient erases a client of an account with its tokens, and ends its sessions on a running server.
func (r *run) revokeClient(db *store.DB, j jid.JID, owner uint64, id session.AgentID) error {
	n, err := fast.Revoke(r.ctx, db, r.hostOf(j), owner, id)
	if err != nil {
		return err
	}
	if r.server != nil {
		r.server.Router.KickAgent(j, id, &session.StreamError{Condition: "not-authorized",
			Text: "this client was signed out"})
	}
	if n == 0 {
		return fmt.Errorf("%s has no client %s: canto user clients %s shows them", j, id, j)
	}
	return nil
}

// revokeClients erases all clients of an account with their tokens.
func (r *run) revokeClients(db *store.DB, j jid.JID) error {
	a, err := db.Accounts().Get(db, j.Domain(), j.Local())
	if err == nil {
		_, err = fast.Revoke(r.ctx, db, r.hostOf(j), a.ID, session.AgentID{})
	}
	return err
}

// hostOf returns the host of an account on a running server; nil without one, and if it is not served.
func (r *run) hostOf(j jid.JID) *session.Host {
	if r.server == nil {
		return nil
	}
	h, _ := r.server.Router.Table.Host(j.Domain())
	return h
}
