package sessiontest

import "testing"

func TestConversations(t *testing.T) { Run(t, "testdata", Options{}) }
