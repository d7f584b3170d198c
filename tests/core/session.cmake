espalier_test(test_session SOURCES core/test_session.cpp core/test_session_values.cpp LIBS espalier::session hdf5::hdf5)
espalier_test(test_profile_file SOURCES core/test_profile_file.cpp LIBS espalier::session)
espalier_test(test_profile_damage SOURCES core/test_profile_damage.cpp LIBS espalier::session)
