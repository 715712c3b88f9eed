// Package house holds the rules that every package of Canto keeps: who may import whom, what may be
// called where, what every package and manifest must have. They are tests, and each message names
// the replacement.
package house
