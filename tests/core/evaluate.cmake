espalier_test(test_evaluate SOURCES core/test_evaluate.cpp LIBS espalier::evaluate TIMEOUT 300)
