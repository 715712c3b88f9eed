-- What the community's modules for SASL2 take from a Prosody newer than 0.12: what a connection's TLS is,
-- the attributes of the client's stream header, times with fractions, and a method of stanzas.
local datetime = require "util.datetime";
local whole = datetime.datetime;
function datetime.datetime(t) return whole(t and math.floor(t)); end

local stanza = require "util.stanza".stanza_mt;
if not stanza.get_child_attr then
	function stanza:get_child_attr(name, xmlns, attr)
		local child = self:get_child(name, xmlns);
		return child and child.attr[attr];
	end
end

local function info(conn)
	local socket = conn:socket();
	return socket.info and socket:info();
end

module:hook("stream-features", function (event)
	local class = getmetatable(event.origin.conn).__index;
	if type(class) == "table" and not class.ssl_info then
		class.ssl_info = info;
	end
	-- FAST wants to see that there is a name, and looks no further.
	event.stream = event.stream or { from = "somebody@" .. module.host };
end, 1000);
