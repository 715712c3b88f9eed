package main

import "github.com/alecthomas/kong"

// helpTexts are the help texts of commands and flags that are too long for the tags of their
// fields. A tag names its text by command or group of flags, and field: ${server_peer}.
var helpTexts = kong.Vars{
	"accounts_format": "canto (for canto user import), ejabberd (Mnesia's text), prosody (files, into --out).",
	"accounts_out":    "File, or Prosody's data folder; standard output if it is not named.",
	"accounts_tls":    "Of the connections that register: none, starttls, direct.",
	"compare_servers": "Descriptions of servers (TOML), or canto, prosody, ejabberd as they are, or " +
		"canto@COMMIT. The first is what the others are divided by. Default: all three.",
	"compare_suite": "What to compare: one that comes along, or a TOML file.",
	"cli_run": "Run a scenario against a server, and leave a report. Without a server, Canto is " +
		"started.",
	"cli_compare":    "Run scenarios against several servers in turn, and print ratios with their intervals.",
	"cli_agree":      "Say in which ratios two results of compare differ by more than their intervals.",
	"cli_plan":       "Find out in five minutes how many sessions of a profile this machine holds.",
	"cli_profile":    "Run a scenario while the server's profiles are recorded, and draw flame graphs.",
	"cli_vm":         "Hold 100,000 sessions in one process of a virtual machine, and say what each costs.",
	"cli_scenarios":  "List the scenarios that come along, or print one, to be copied and changed.",
	"cli_accounts":   "Make the accounts of a load test: as files that servers read, or by registration.",
	"plan_profile":   "What an average session does in an hour (TOML; see docs/bench.md). Default: phones.",
	"plan_out":       "Folder for the plan as JSON.",
	"profile_out":    "Folder for the report, profiles and flame graphs.",
	"server_peer":    "Start this kind of server: canto, prosody or ejabberd.",
	"server_program": "Its program; canto is built if none is named.",
	"server_server":  "Address of a server that runs (plain and STARTTLS).",
	"server_domain":  "Its XMPP domain; the host of its address if it is not named.",
	"server_user":    "Name of the accounts, with %d where their number goes; bench%d if it is not named.",
	"server_ca":      "Certificate that the server's is checked by (PEM).",
	"server_pid": "Processes of the server, if it runs on this machine: their CPU and memory are " +
		"in the report.",
	"scenario_clients": "How many clients, in place of the scenario's; groups keep their shares.",
	"load_workers":     "Processes that the clients are spread over; 0: as many as descriptors need.",
	"load_agent":       "Agents on other machines that the clients are spread over (canto-bench agent).",
	"run_scenario":     "Name of one that comes along (canto-bench scenarios), or a TOML file.",
	"run_dir": "Folder of the server that is started: used again, it has its accounts. Without " +
		"one it is made, and removed.",
	"agent_listen": "Address to be asked at; give a --secret unless it is loopback.",
}
