// Package report shows the result of a run: as one HTML page with plots, as a few lines of
// text, and while it goes on.
package report
