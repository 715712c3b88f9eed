package main

import (
	"encoding/json"
	"fmt"

	"canto/session/mod/push"
	"canto/session/store"
)

// pushCmd is `canto push`.
type pushCmd struct {
	List pushList `cmd:"" help:"List the push services of an account."`
}

// pushList is `canto push list`.
type pushList struct {
	JID  string `arg:"" name:"jid" help:"The account: name@domain."`
	JSON bool   `name:"json" help:"Print one JSON array."`
}

// Run prints a line for each registration: its service, its node, and the size of its publish options,
// which may have secrets and are not printed. The node is what a client has chosen: it is quoted, so that it
// is one column and moves no cursor.
func (p *pushList) Run(r *run) error {
	j, err := parseAccount(p.JID)
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
		list, err := push.List(db, s, a.ID)
		if err != nil {
			return err
		}
		if p.JSON {
			if list == nil {
				list = []push.Registration{}
			}
			return json.NewEncoder(r.out).Encode(list)
		}
		for _, x := range list {
			fmt.Fprintf(r.out, "%s\t%q\t%d bytes of options\n", x.Service, x.Node, x.Options)
		}
		return nil
	})
}
