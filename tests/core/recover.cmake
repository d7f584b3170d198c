espalier_test(test_recover SOURCES core/test_least_squares.cpp core/test_recover.cpp
    LIBS espalier::recover espalier::export espalier::evaluate TIMEOUT 300)
