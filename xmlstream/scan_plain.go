//go:build !goexperiment.simd || !amd64

package xmlstream

// longText is false: without the simd experiment of Go there is no faster way to scan a long text. See
// scan_simd.go.
const longText = false

// skipText is never called, as longText is false.
func skipText(_ []byte, i int) int { return i }
