package hostile

// recordsPerWrite is how many records go out in one write.
const recordsPerWrite = 64

// keyUpdates is a TLS connection that makes the server derive keys, or open empty records. An
// attacker does the same in each of its connections: if they took turns, all would end up in a way
// that the server accepts.
//
// The ways, by the attacker's number: key updates with and without a request; empty and padded
// records; one blank in 16 KiB; a handshake message in single bytes; invalid key updates and record
// types; and a mix within usual limits, after login if there are accounts.
func keyUpdates(l *attacker, _ int) error {
	n := l.i % 9
	s, err := l.underTLS(n == 8)
	if err != nil {
		return err
	}
	defer s.Close()
	seal, err := s.captureKeys()
	if err != nil {
		return err
	}
	end := s.drain()
	for k := 0; ; k++ {
		var b []byte
		var err error
		if k == 0 && s.jid == "" { // the records that follow belong to a stream
			b = seal.record(b, typeApplication, []byte(l.a.header()), 0)
		}
		for j := 0; j < recordsPerWrite && err == nil; j++ {
			switch n {
			case 0:
				b, err = seal.keyUpdate(b, 1)
			case 1:
				b, err = seal.keyUpdate(b, 0)
			case 2:
				b = seal.record(b, typeApplication, nil, 0)
			case 3:
				b = seal.record(b, typeApplication, nil, 200)
			case 4: // 16 KiB for one blank
				if j%16 == 0 {
					b = seal.record(b, typeApplication, []byte{' '}, 16<<10-1)
				}
			case 5: // a message of 64 KiB, a byte in each record
				content := []byte{0}
				if k == 0 && j < 4 {
					content[0] = [...]byte{messageTicket, 0, 0xff, 0xff}[j]
				}
				b = seal.record(b, typeHandshake, content, 0)
			case 6: // an invalid request
				b, err = seal.keyUpdate(b, 2)
			case 7:
				b = seal.record(b, 0, nil, 100)
			case 8: // without end, as it is within usual limits
				switch j % 16 {
				case 15:
					b = seal.record(b, typeApplication, []byte{' '}, 0)
				case 3, 7, 11:
					b = seal.record(b, typeApplication, nil, 0)
				default:
					b, err = seal.keyUpdate(b, byte(j&1))
				}
			}
		}
		if err != nil {
			return clientFault{err}
		}
		if err := s.a.attempt(recordsPerWrite); err != nil {
			return err
		}
		if _, err := s.Write(b); err != nil {
			return err
		}
		select {
		case err := <-end:
			return err
		default:
		}
	}
}

// underTLS opens a connection with TLS, before login or, if there are accounts, after it.
func (l *attacker) underTLS(in bool) (*session, error) {
	if in && l.a.cfg.User != nil {
		if l.a.cfg.Direct.IsValid() {
			return l.logIn("direct")
		}
		return l.logIn("starttls")
	}
	s, err := l.beforeTLS()
	if err != nil {
		return nil, err
	}
	if err := s.secure(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
