//go:build interop

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What a server must not do is noticed by the checks of a conversation.
func TestConversationChecks(t *testing.T) {
	const n = 8
	body := func(i int) string { return fmt.Sprintf("%s%06d", prefix, i) }
	for _, c := range []struct {
		name   string
		change func(m *member, archive *[]message)
		want   string // a part of the error; "": none
	}{
		{"nothing", func(*member, *[]message) {}, ""},
		{"one is not archived", func(_ *member, a *[]message) { *a = slices.Delete(*a, 3, 4) }, "were sent"},
		{"one is archived twice", func(_ *member, a *[]message) {
			*a = append(*a, message{from: "x", body: body(3), id: "new"})
		}, "is there twice"},
		{"two have one id", func(_ *member, a *[]message) { (*a)[3].id = (*a)[2].id }, "that of another"},
		{"one has no id", func(_ *member, a *[]message) { (*a)[3].id = "" }, "is empty"},
		{"those of a sender are the other way round", func(_ *member, a *[]message) {
			(*a)[3], (*a)[5] = (*a)[5], (*a)[3]
		}, "other way round"},
		{"one does not come", func(m *member, _ *[]message) { m.log = slices.Delete(m.log, 2, 3) }, "never came"},
		{"one comes twice", func(m *member, _ *[]message) { m.log = append(m.log, m.log[3]) }, "came twice"},
		{"one comes that is not archived", func(m *member, _ *[]message) {
			m.log = append(m.log, message{body: body(99), how: "direct", id: "z"})
		}, "does not have it"},
		{"two come the other way round", func(m *member, _ *[]message) {
			m.log[1], m.log[2] = m.log[2], m.log[1]
		}, "other way round"},
		{"one comes with another id", func(m *member, _ *[]message) { m.log[1].id = "other" }, "has it as"},
		{"one comes without an id", func(m *member, _ *[]message) { m.log[1].id = "" }, "without the id"},
		{"one comes back to its sender", func(m *member, a *[]message) {
			m.log = append([]message{(*a)[0]}, m.log...)
		}, "came back"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conv := &conversation{sent: n}
			m := &member{c: conv}
			var archive []message
			for i := range n {
				s := message{how: "direct", from: fmt.Sprint("sender", i%2), body: body(i), id: fmt.Sprint("id", i)}
				archive = append(archive, s)
				if i%4 == 0 {
					m.own = append(m.own, s.body)
				} else {
					m.log = append(m.log, s)
				}
			}
			c.change(m, &archive)
			err := conv.checkArchive(archive)
			if err == nil {
				err = m.check(archive)
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("the checks say %v, and should say %q", err, c.want)
			}
		})
	}
}
