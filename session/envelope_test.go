package session

import (
	"reflect"
	"testing"
)

// An envelope holds values only, so that it means the same on another loop, later, and one day on
// another node.
func TestEnvelopeHoldsValues(t *testing.T) {
	var look func(path string, typ reflect.Type)
	look = func(path string, typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				look(path+"."+typ.Field(i).Name, typ.Field(i).Type)
			}
		case reflect.Array, reflect.Slice:
			look(path+"[]", typ.Elem())
		case reflect.Pointer, reflect.UnsafePointer, reflect.Func, reflect.Interface, reflect.Map, reflect.Chan:
			t.Errorf("%s is a %s", path, typ)
		}
	}
	look("envelope", reflect.TypeFor[envelope]())
}
