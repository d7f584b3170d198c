espalier_test(test_output_moments SOURCES core/test_output_moments.cpp LIBS espalier::statistics)
