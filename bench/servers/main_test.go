package servers

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// programs is a folder for programs that tests build.
var programs string

// fakeMode is the variable that makes the test binary a server that stands in for canto.
const fakeMode = "CANTO_PEER_FAKE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeMode); mode != "" && len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		fake(mode)
		return
	}
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		panic(err)
	}
	programs = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// fake does what the program canto would, as far as peer sees.
func fake(mode string) {
	switch os.Args[1] {
	case "version":
		fmt.Println("canto 9.9")
		return
	case "modules":
		fmt.Print(cantoModules)
		return
	case "user":
		lines, _ := io.ReadAll(os.Stdin)
		os.WriteFile(filepath.Join(filepath.Dir(after("--config")), "imported"), lines, 0o600)
		return
	case "sleep":
		time.Sleep(time.Minute)
		return
	}
	switch mode {
	case "dies":
		fmt.Fprintln(os.Stderr, "first line\nthe disk is \x1b full")
		os.Exit(3)
	case "taken once":
		if _, err := os.Stat("marker"); err != nil {
			os.WriteFile("marker", nil, 0o600)
			fmt.Fprintln(os.Stderr, "listen: address already in use")
			os.Exit(4)
		}
	case "silent":
		time.Sleep(time.Minute)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		child := exec.Command(os.Args[0], "sleep")
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of our group
		child.Start()
	}
	fakeServe(mode)
}

func after(flag string) string {
	for i, a := range os.Args {
		if a == flag {
			return os.Args[i+1]
		}
	}
	return ""
}

func fakeServe(mode string) {
	text, err := os.ReadFile(after("--config"))
	if err != nil {
		panic(err)
	}
	var c struct {
		Listen struct {
			C2S    []string
			C2STLS []string `toml:"c2s_tls"`
		}
		Host map[string]struct{ Certificate, Key string }
	}
	if err := toml.Unmarshal(text, &c); err != nil {
		panic(err)
	}
	cert, err := tls.LoadX509KeyPair(c.Host["localhost"].Certificate, c.Host["localhost"].Key)
	if mode == "another" {
		crt, key, _ := selfSigned("localhost", time.Now())
		cert, err = tls.X509KeyPair(crt, key)
	}
	if err != nil {
		panic(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}}
	serve := func(addr string, f func(c net.Conn)) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					f(c)
				}()
			}
		}()
	}
	const features = "<stream:stream><stream:features></stream:features>"
	serve(c.Listen.C2S[0], func(c net.Conn) {
		if ask(c, "", "'localhost'>") == nil && ask(c, features, "urn:ietf:params:xml:ns:xmpp-tls'/>") == nil {
			c.Write([]byte("<proceed/>"))
			c = tls.Server(c, conf)
			ask(c, "", "'localhost'>")
			ask(c, features, "</stream:stream>")
		}
	})
	serve(c.Listen.C2STLS[0], func(c net.Conn) {
		c = tls.Server(c, conf)
		ask(c, "", "'localhost'>")
		ask(c, features, "</stream:stream>")
	})
	fmt.Println("canto: ready c2s=" + c.Listen.C2S[0])
	stop := make(chan os.Signal, 1)
	if mode != "deaf" {
		signal.Notify(stop, syscall.SIGTERM)
	}
	<-stop
}
