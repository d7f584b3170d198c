espalier_test(test_score SOURCES core/test_score.cpp LIBS espalier::score)
