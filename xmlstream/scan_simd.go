//go:build goexperiment.simd && amd64

package xmlstream

import (
	"math/bits"
	"simd/archsimd"
)

// longText is whether skipText is worth calling, on this machine.
var longText = archsimd.X86.AVX2()

// skipText passes character data from i on, 32 bytes at a time, and stops at a byte that plainText
// looks at, or with fewer than 32 left. A signed comparison finds controls and what is not ASCII at
// once.
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
