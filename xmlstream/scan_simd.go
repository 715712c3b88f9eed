//go:build goexperiment.simd && amd64

package xmlstream

import (
	"math/bits"
	"simd/archsimd"
)

// longText says that plainText calls skipText in a long text: on machines with AVX2. A short text gains
// nothing, as the first vector instructions of a burst cost more than they save.
var longText = archsimd.X86.AVX2()

// skipText skips plain character data from i on, 32 bytes at a time. It stops at the first byte that is
// not plain, as plainText does, or where fewer than 32 bytes are left. The comparison with the space is
// signed, so it finds controls and bytes from 0x80 on at once. At the end it clears the upper halves of
// the vector registers: otherwise SSE instructions that follow are slow.
func skipText(b []byte, i int) int {
	lt, am, gt := archsimd.BroadcastInt8x32('<'), archsimd.BroadcastInt8x32('&'), archsimd.BroadcastInt8x32('>')
	space := archsimd.BroadcastInt8x32(' ')
	for i+32 <= len(b) {
		v := archsimd.LoadUint8x32Slice(b[i : i+32]).AsInt8x32()
		if m := v.Equal(lt).Or(v.Equal(am)).Or(v.Equal(gt)).Or(space.Greater(v)).ToBits(); m != 0 {
			i += bits.TrailingZeros32(m)
			break
		}
		i += 32
	}
	archsimd.ClearAVXUpperBits()
	return i
}
