# A list of invocations; everything here can be typed by hand.
.PHONY: test race fuzz interop ci bench bench-compare bench-100k bench-xml run

run:            ; go run ./cmd/canto serve --dev
test:           ; go test ./...
race:           ; go test -race ./...
interop:        ; go test -tags interop -count=1 ./cmd/internal/interop
bench:          ; go run ./cmd/canto-bench
bench-compare:  ; go run ./cmd/canto-bench compare --suite goals
bench-100k:     ; go run ./cmd/canto-bench vm --out bench-100k-report
bench-xml:      ; go run ./bench/xmlbench
ci:             ; bash .ci/run
