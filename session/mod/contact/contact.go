// Package contact says whom to ask about the server (XEP-0157), as a form in its service discovery.
//
//	<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>http://jabber.org/network/serverinfo</value></field>
//	<field var='abuse-addresses'><value>mailto:abuse@localhost</value></field></x>
//
// State: none. Stored: nothing. Options: lists of URIs, [module.contact] abuse = ["mailto:..."].
package contact

import (
	"errors"
	"fmt"
	"net/url"

	"canto/session"
	"canto/session/mod/disco"
)

// Manifest is how the loader knows this module.
var Manifest = session.Manifest{
	Name:     "contact",
	Spec:     "XEP-0157 1.1.1",
	Summary:  "says whom to ask about the server",
	Cases:    "abuse, admin, feedback, sales, security, status, support",
	Requires: []session.Feature{"accounts", "disco"},
	Options:  func() any { return new(Options) },
	New:      func() session.Module { return new(module) },
}

// Options are the module's section of the configuration.
type Options struct {
	Abuse    []string `toml:"abuse"`
	Admin    []string `toml:"admin"`
	Feedback []string `toml:"feedback"`
	Sales    []string `toml:"sales"`
	Security []string `toml:"security"`
	Status   []string `toml:"status"`
	Support  []string `toml:"support"`
}

// Check is [session.OptionChecker].
func (o *Options) Check() (key, why string) {
	for _, f := range o.fields() {
		for _, u := range f.list {
			if p, err := url.Parse(u); err != nil || p.Scheme == "" {
				return f.name, fmt.Sprintf("%q is no URI: write it like mailto:abuse@example.org or "+
					"xmpp:admin@example.org", u)
			}
		}
	}
	return "", ""
}

// A field is one of the form of XEP-0157, less "-addresses".
type field struct {
	name string
	list []string
}

func (o *Options) fields() []field {
	return []field{{"abuse", o.Abuse}, {"admin", o.Admin}, {"feedback", o.Feedback}, {"sales", o.Sales},
		{"security", o.Security}, {"status", o.Status}, {"support", o.Support}}
}

type module struct{ opt Options }

func (m *module) Load(api *session.API) error {
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	d, ok := session.Lookup[*disco.Service](api)
	if !ok {
		return errors.New("there is no service discovery")
	}
	form := disco.Form{Type: "http://jabber.org/network/serverinfo"}
	for _, f := range m.opt.fields() {
		if len(f.list) > 0 {
			form.Fields = append(form.Fields, disco.Field{Var: f.name + "-addresses", Values: f.list})
		}
	}
	if len(form.Fields) > 0 {
		d.Forms = append(d.Forms, form)
	}
	return nil
}
