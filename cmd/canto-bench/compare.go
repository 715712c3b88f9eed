package main

type compareCmd struct{}
type agreeCmd struct{}
type planCmd struct{}
type accountsCmd struct{}
