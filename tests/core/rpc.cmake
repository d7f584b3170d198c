espalier_test(test_rpc SOURCES core/test_rpc.cpp LIBS espalier::rpc)
