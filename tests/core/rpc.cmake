espalier_test(test_rpc SOURCES core/test_rpc.cpp core/test_protocol.cpp LIBS espalier::rpc)
