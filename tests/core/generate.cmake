espalier_test(test_generate SOURCES core/test_generate.cpp LIBS espalier::generate)
