-- Prosody for a load test on loopback, as one who knows it would set it up for many clients.
pidfile = "/bench/prosody.pid"
data_path = "/bench/data"
certificates = "/bench/certs"
plugin_paths = { "/bench/modules" }

-- What matters only, as by default it would write two lines for each login.
log = { { levels = { min = "warn" }; to = "console" } }

-- epoll is the default since 0.12 and the fastest; select could not hold 1,024 connections.
network_backend = "epoll"
network_settings = {
	tcp_backlog = 4096; -- 128 overflows when thousands connect at once
	nagle = false; -- else small stanzas may wait for an acknowledgement
	-- opportunistic_writes stays off: with it 0.12.3 turns in a loop after its first connections.
}

-- The default of 0.12, with its figures written out.
gc = { mode = "incremental"; threshold = 105; speed = 500 }

interfaces = { "127.0.0.1" }
local_interfaces = { "127.0.0.1" }
c2s_ports = { 15222 }
c2s_direct_tls_ports = { 15223 }

-- The same clients log in with and without TLS, by PLAIN too.
c2s_require_encryption = false
allow_unencrypted_plain_auth = true

authentication = "internal_hashed"
password_hash = "SHA-256" -- one hash is kept, and one SCRAM offered
storage = "internal"

-- Not "limits", which would throttle streams to 10 kB/s; no federation, no HTTP, no administration.
modules_enabled = {
	"posix"; -- signals
	"disco"; "roster"; "saslauth"; "tls"; "offline"; "presence"; "message"; "iq";
	"ping"; "version"; "time"; "lastactivity"; "private"; "blocklist"; "vcard";
	"carbons"; "smacks"; "csi";
	"mam";
	"cloud_notify";
	"register";
	-- Not sasl2_sm: it wants a newer Prosody than 0.12.
	"bench_sasl2"; "sasl2"; "sasl2_bind2"; "sasl2_fast";
	"vcard4";
}
modules_disabled = { "s2s"; "s2s_auth_certs"; "http"; "admin_shell"; "admin_socket" }

-- Accounts as fast as they are asked for: register_limits is not loaded.
allow_registration = true

-- Every message is archived; the default of 10,000 for each user would end a long run.
default_archive_policy = true
storage_archive_item_limit = 10000000
archive_expires_after = "never" -- no cleaning up in the middle of a run

-- Blocklists of those who are online stay in memory.
blocklist_cache_size = 100000

VirtualHost "localhost"

Component "conference.localhost" "muc"
	-- Rooms are open at once, without the owner's form first.
	muc_room_locking = false
	muc_room_cache_size = 100000 -- those in use are never thrown out to be loaded again
	modules_enabled = { "muc_mam" }
	muc_log_by_default = true
