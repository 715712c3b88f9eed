package servers

import (
	"embed"
	"os"
	"strconv"
	"strings"
	"text/template"
)

// conf has the templates of the configurations, with reasons for their settings.
//
//go:embed conf
var conf embed.FS

// settings are what a template can use.
type settings struct {
	Dir, Domain, Rooms string
	Cert, Key          string
	Plain, Direct      uint16
	Extra              uint16 // one more port
	Option             func(name string) string
	On                 func(name string) bool // whether an option is "on"
	More               map[string]string      // values that the launcher adds
}

// render writes a configuration from its template, and keeps the text for the result.
func (p *launch) render(name, file string, more map[string]string) error {
	text, err := p.text(name, more)
	if err != nil {
		return err
	}
	p.server.Config = text
	return os.WriteFile(file, []byte(text), 0o600)
}

func (p *launch) text(name string, more map[string]string) (string, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"quote": strconv.Quote,
		"lua": luaString}).ParseFS(conf, "conf/"+name)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, settings{Dir: p.Dir, Domain: p.Domain, Rooms: roomsOf(p.Domain),
		Cert: p.certificateFiles.cert, Key: p.certificateFiles.key,
		Plain: p.ports[0], Direct: p.ports[1], Extra: p.ports[2],
		Option: p.option, On: func(n string) bool { return p.option(n) == "on" }, More: more})
	return b.String(), err
}
