// Package report shows what a run of the load suite left: as one HTML page with plots, as a few lines of
// text, and while it goes on.
package report
