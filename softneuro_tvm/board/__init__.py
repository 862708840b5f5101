"""What runs on a board: RPC servers that survive every kernel, and what compiles the one that needs no Python.

rpc_server.cc (cpp/)   the server in C++: TVM's runtime libraries and nothing else
server                 the server in Python: `softneuro-tvm rpc-server`
compiling, runtimes    the C++ server with its libraries as one folder, for this machine or another one
"""
