package xmlstream

// scanned counts bytes looked at, for the tests that hold the work linear; nil: nobody counts.
var scanned *int

func work(n int) {
	if scanned != nil {
		*scanned += n
	}
}
