package main

import (
	"cmp"
	"fmt"
	"time"
)

// A flag is used as it is given, or refused: these say which, before anything is started or written.

// firstError returns the first of the errors as one of usage, nil if there is none.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return usageError{err}
		}
	}
	return nil
}

// atLeast is an error if v is less than the least; what says what is right for it.
func atLeast[T cmp.Ordered](flag string, v, least T, what string) error {
	if v >= least { // false for a float that is no number
		return nil
	}
	return fmt.Errorf("%s is %v: %s", flag, v, what)
}

// within is an error if v is not from least to most.
func within[T cmp.Ordered](flag string, v, least, most T, what string) error {
	if v <= most {
		return atLeast(flag, v, least, what)
	}
	return fmt.Errorf("%s is %v: %s", flag, v, what)
}

// atLeastIfSet is atLeast for a flag that may be left out.
func atLeastIfSet[T cmp.Ordered](flag string, v *T, least T, what string) error {
	if v == nil {
		return nil
	}
	return atLeast(flag, *v, least, what)
}

// oneOf is an error if v is none of the values; an empty v is a flag that was left out.
func oneOf(flag, v string, values ...string) error {
	for _, ok := range append(values, "") {
		if v == ok {
			return nil
		}
	}
	return fmt.Errorf("%s is %q: one of %s", flag, v, list(values))
}

func list(values []string) (s string) {
	for i, v := range values {
		if i > 0 {
			s += ", "
		}
		s += v
	}
	return s
}

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (f *scenarioFlags) check() error {
	return firstError(
		atLeastIfSet("--clients", f.Clients, 1, "1 or more; left out, they are the scenario's"),
		atLeastIfSet("--rates", f.Rates, 1e-6, "a factor above 0; for no load, take a scenario without "+
			"things to do, such as idle"),
		within("--rates", valueOf(f.Rates), 0, 1e6, "a factor up to 1000000"),
		oneOf("--rate", f.Rate, "max"),
		atLeastIfSet("--rows", f.Rows, 1, "1 or more; left out, they are the scenario's"),
		atLeastIfSet("--length", f.Length, time.Millisecond, "1ms or more; left out, it is the scenario's"),
		oneOf("--tls", f.TLS, "none", "starttls", "direct"),
		oneOf("--sasl2", f.SASL2, "auto", "off", "require"),
		oneOf("--mechanism", f.Mechanism, "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"),
	)
}

func (f *loadFlags) check() error {
	return firstError(atLeast("--workers", f.Workers, 0, "1 or more, or 0 for as many as descriptors need"))
}

func (f *serverFlags) check() error {
	for _, pid := range f.PID {
		if err := atLeast("--pid", pid, 1, "the number of a process"); err != nil {
			return firstError(err)
		}
	}
	return firstError(atLeast("--first", f.First, 0, "0 or more"))
}
