//go:build invariants || race

package xmlstream

const checked = true

// poison overwrites bytes whose owner has given them back, so that whoever still looks sees it.
func poison(b []byte) {
	b = b[:cap(b)]
	for i := range b {
		b[i] = 0xDB
	}
}
