"""The console: a web page for people that asks the gateway as any client does, and changes nothing."""
