package store

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
)

// A KeyCodec encodes and decodes keys. Encoded keys must sort as the keys do, byte by byte, and no
// two keys may be encoded alike. Append appends to dst and returns it. Decode may not keep b.
type KeyCodec[K any] struct {
	Append func(dst []byte, k K) []byte // appends the encoded key
	Decode func(b []byte) (K, error)    // decodes a key
}

// A Codec encodes and decodes values, also those of older versions of the table. Append appends to
// dst and returns it. Decode gets the version of the value; its result may share b, which is valid
// as long as the row that the reader returns.
type Codec[V any] struct {
	Append func(dst []byte, v V) []byte             // appends the encoded value
	Decode func(version uint8, b []byte) (V, error) // decodes a value of that version
}

// errLength: a stored key or value has another length than its type.
var errLength = errors.New("wrong length")

// keyCodec returns the codec of the types of keys that have one: string, []byte, uint64, uint32. ok
// is false for other types.
func keyCodec[K any]() (c KeyCodec[K], ok bool) {
	var found any
	switch any(*new(K)).(type) {
	case string:
		found = KeyCodec[string]{
			func(dst []byte, k string) []byte { return append(dst, k...) },
			func(b []byte) (string, error) { return string(b), nil },
		}
	case []byte:
		found = KeyCodec[[]byte]{
			func(dst, k []byte) []byte { return append(dst, k...) },
			func(b []byte) ([]byte, error) { return append([]byte(nil), b...), nil },
		}
	case uint64:
		found = KeyCodec[uint64]{
			binary.BigEndian.AppendUint64,
			func(b []byte) (uint64, error) {
				if len(b) != 8 {
					return 0, errLength
				}
				return binary.BigEndian.Uint64(b), nil
			},
		}
	case uint32:
		found = KeyCodec[uint32]{
			binary.BigEndian.AppendUint32,
			func(b []byte) (uint32, error) {
				if len(b) != 4 {
					return 0, errLength
				}
				return binary.BigEndian.Uint32(b), nil
			},
		}
	}
	c, ok = found.(KeyCodec[K])
	return c, ok
}

// valueCodec returns the codec of the types of values that have one: []byte, string, uint64,
// struct{}, and types with AppendBinary and, on the pointer, UnmarshalBinary. ok is false for other
// types.
func valueCodec[V any]() (c Codec[V], ok bool) {
	var found any
	switch any(*new(V)).(type) {
	case []byte:
		found = Codec[[]byte]{
			func(dst, v []byte) []byte { return append(dst, v...) },
			func(_ uint8, b []byte) ([]byte, error) { return b, nil },
		}
	case string:
		found = Codec[string]{
			func(dst []byte, v string) []byte { return append(dst, v...) },
			func(_ uint8, b []byte) (string, error) { return string(b), nil },
		}
	case uint64:
		found = Codec[uint64]{
			binary.BigEndian.AppendUint64,
			func(_ uint8, b []byte) (uint64, error) {
				if len(b) != 8 {
					return 0, errLength
				}
				return binary.BigEndian.Uint64(b), nil
			},
		}
	case struct{}:
		found = Codec[struct{}]{
			func(dst []byte, _ struct{}) []byte { return dst },
			func(uint8, []byte) (struct{}, error) { return struct{}{}, nil },
		}
	default:
		_, write := any(*new(V)).(encoding.BinaryAppender)
		_, read := any(new(V)).(encoding.BinaryUnmarshaler)
		if write && read {
			found = Codec[V]{
				func(dst []byte, v V) []byte {
					out, err := any(v).(encoding.BinaryAppender).AppendBinary(dst)
					if err != nil {
						panic(fmt.Sprintf("store: %T can't be written: %v", v, err))
					}
					return out
				},
				func(_ uint8, b []byte) (V, error) {
					var v V
					err := any(&v).(encoding.BinaryUnmarshaler).UnmarshalBinary(b)
					return v, err
				},
			}
		}
	}
	c, ok = found.(Codec[V])
	return c, ok
}
