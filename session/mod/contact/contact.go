// Package contact implements contact addresses for XMPP services (XEP-0157): a form in the server's
// service discovery that names the addresses for questions about the server.
//
//	<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>
//	  <value>http://jabber.org/network/serverinfo</value></field>
//	<field var='abuse-addresses' type='list-multi'><value>mailto:abuse@localhost</value></field></x>
//
// Each field says that it is a list-multi, as XEP-0157 section 2 has it: a field without a type may be read
// as a text-single, which has one value (XEP-0004 section 3.2).
//
// The configuration has lists of URIs: [module.contact] abuse = ["mailto:..."].
//
// In memory: nothing. Stored: nothing. Hooks: none; the form is given to module disco in Load.
package contact

import (
	"errors"
	"fmt"
	"net/url"

	"canto/session"
	"canto/session/form"
	"canto/session/mod/disco"
)

// Manifest describes this module to the loader.
var Manifest = session.Manifest{
	Name:     "contact",
	Spec:     "XEP-0157 1.1.1",
	Summary:  "says whom to ask about the server",
	Cases:    "abuse, admin, feedback, sales, security, status, support",
	Requires: []session.Feature{"accounts", "disco"},
	Options:  func() any { return new(Options) },
	New:      func() session.Module { return new(module) },
}

// Options is the module's section of the configuration: a list of URIs for each field of XEP-0157 section
// 2.
type Options struct {
	// Each list has the addresses for one purpose; an empty list is left out of the form.
	Abuse    []string `toml:"abuse"`
	Admin    []string `toml:"admin"`
	Feedback []string `toml:"feedback"`
	Sales    []string `toml:"sales"`
	Security []string `toml:"security"`
	Status   []string `toml:"status"`
	Support  []string `toml:"support"`
}

// Check implements [session.OptionChecker]: each address must be a URI with a scheme.
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

// A field is one field of the form: name is its variable without "-addresses".
type field struct {
	name string
	list []string
}

// fields returns the fields in the order of the form.
func (o *Options) fields() []field {
	return []field{{"abuse", o.Abuse}, {"admin", o.Admin}, {"feedback", o.Feedback}, {"sales", o.Sales},
		{"security", o.Security}, {"status", o.Status}, {"support", o.Support}}
}

// A module is the module of one profile. It is used in Load only.
type module struct{ opt Options }

// Load implements [session.Module]: it adds the form to module disco, if there is any address. It fails if
// module disco is not loaded.
func (m *module) Load(api *session.API) error {
	if err := api.Decode(&m.opt); err != nil {
		return err
	}
	d, ok := session.Lookup[*disco.Service](api)
	if !ok {
		return errors.New("there is no service discovery")
	}
	info := disco.Form{Type: "http://jabber.org/network/serverinfo"}
	for _, f := range m.opt.fields() {
		if len(f.list) > 0 {
			info.Fields = append(info.Fields, disco.Field{Var: f.name + "-addresses", Type: form.ListMulti,
				Values: f.list})
		}
	}
	if len(info.Fields) > 0 {
		d.Forms = append(d.Forms, info)
	}
	return nil
}
